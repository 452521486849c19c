"""What a search would cost, before anything of it is trained."""
