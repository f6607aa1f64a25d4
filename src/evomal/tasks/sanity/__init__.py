"""Sanity checks of a task: warnings, with numbers, about likely mistakes."""
