"""Clusters of Ray: their files, how safe they are, and how a search gets there."""
