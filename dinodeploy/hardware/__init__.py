"""The machine: usable CPU cores, CPU features and GPUs."""
