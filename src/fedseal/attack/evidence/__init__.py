"""What an observation says before any attack, and what can be computed from it alone: structure, release, replay."""
