"""What a team is worth: accuracy through the gate under attack, and measured latency."""
