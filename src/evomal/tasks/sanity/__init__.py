"""Sanity checks of a finished task: what is allowed, but rarely meant, in words with numbers."""
