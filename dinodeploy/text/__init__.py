"""Texts beside images: labels and templates, zero-shot classification and segmentation, queries by words."""
