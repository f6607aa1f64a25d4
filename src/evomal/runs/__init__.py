"""Durability: the run directory, the search driver, progress."""
