"""Searches for rows of tables."""
