"""Evaluation of frozen features: k nearest neighbours and a linear probe (docs/spec.md 5.1, 5.2)."""

from __future__ import annotations
