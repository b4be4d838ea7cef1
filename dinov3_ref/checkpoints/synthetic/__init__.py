"""Synthetic checkpoints: random weights, and random weights with planted massive activations."""
