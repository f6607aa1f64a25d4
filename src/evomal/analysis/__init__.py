"""Figures, tables and reports: they only read runs."""
