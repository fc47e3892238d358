"""Exact routes to one example, layer by layer."""
