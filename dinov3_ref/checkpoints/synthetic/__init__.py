"""Checkpoints made here: random weights, and planted massive activations."""
