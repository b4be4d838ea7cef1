"""Precision recipes (fp32, fp16, bf16, int8, fp8), calibration, and how a recipe is applied to a graph."""
