"""Self-supervised training and distillation of DINOv3 (docs/spec.md 4)."""
