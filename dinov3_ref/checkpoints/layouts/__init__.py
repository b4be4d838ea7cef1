"""Checkpoint layouts (official, Hugging Face, timm): detection, key names, conversion."""
