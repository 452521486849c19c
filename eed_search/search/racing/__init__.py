"""Which trials go on: the promotion rule, the rungs, the incumbents that a trial under attack is held against."""
