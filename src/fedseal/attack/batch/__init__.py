"""Routes to the examples of a batch."""
