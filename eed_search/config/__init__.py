"""What a person writes: the search-space file, its names, its plugins, and what one trial is made of."""
