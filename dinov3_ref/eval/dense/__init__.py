"""Linear segmentation and depth: crops, windows, training, scores (docs/spec.md 5.4, 5.6)."""

from __future__ import annotations
