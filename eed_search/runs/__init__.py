"""What a run is on the disk: its folder, its lock, its ledger of events, and the records in it."""
