"""What a classifier is worth: accuracy clean and under attack, and latency."""
