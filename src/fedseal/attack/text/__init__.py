"""Routes and searches to sentences."""
