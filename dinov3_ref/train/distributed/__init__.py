"""Devices and torchrun, precision, DDP and FSDP, activation checkpointing, compilation."""
