"""Checkpoint layouts: official, Hugging Face, timm; detection and key names."""
