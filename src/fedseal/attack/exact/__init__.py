"""Exact routes: closed forms that read the data off the update without a search."""
