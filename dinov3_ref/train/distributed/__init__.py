"""Devices, precision, parallelism and activation checkpointing."""
