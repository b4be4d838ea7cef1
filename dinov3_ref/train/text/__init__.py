"""Align texts with the images of a frozen backbone: the training of dino.txt (docs/spec.md 5.8)."""
