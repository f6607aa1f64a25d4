"""Losses as ordinary PyTorch modules, and their files."""
