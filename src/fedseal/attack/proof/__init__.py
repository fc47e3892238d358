"""What can be proved of a reconstruction."""
