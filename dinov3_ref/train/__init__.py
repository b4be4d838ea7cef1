"""Training of DINOv3 (SPEC 4): the meta architecture, its schedules, groups and optimiser."""
