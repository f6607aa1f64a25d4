"""Figures, tables and reports: they read finished runs and never steer them."""
