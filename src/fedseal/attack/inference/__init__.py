"""Questions to an update whose answer is no input."""
