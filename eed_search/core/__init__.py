"""What every layer shares: errors, records, the search-space file, the frontier, the store, the ledger."""
