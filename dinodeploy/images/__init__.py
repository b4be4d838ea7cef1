"""Find, open, preprocess and group images."""
