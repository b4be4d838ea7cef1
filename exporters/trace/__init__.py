"""Trace the model with custom ops for RoPE and attention."""
