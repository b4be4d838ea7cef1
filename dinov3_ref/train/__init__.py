"""Training of DINOv3 (docs/spec.md 4): the meta architecture, its schedules, groups and optimiser."""
