"""Synthetic datasets for tests and the toy recipe."""
