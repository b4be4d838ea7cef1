"""Heads without torch: train a linear one on what an engine puts out, and predict with any that a bundle has.

labelled ─> features (by the engine, cached) ─> split ─> softmax ─> scores ─> head_file ─> exporters.heads
"""
