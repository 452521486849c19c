"""Where trials run: in this process, or under Ray, here or over a cluster."""
