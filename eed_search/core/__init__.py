"""What every room shares: errors, seeds, statistics, texts, the pace of long work, fail points for tests."""
