"""Precision recipes, and how they are written into a graph."""
