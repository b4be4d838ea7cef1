"""Heads behind a backbone: trace the head alone, put it behind every graph of a bundle, judge the whole.

head ─> trace_head ─> merge ─> attach ─> add_head (an existing bundle), bundle/export.py (a new bundle)
"""

from __future__ import annotations

from exporters.heads.add_head import add_head, in_memory
from exporters.heads.attach import attach_head, check_fits
from exporters.heads.find_head import find_head

__all__ = ["add_head", "attach_head", "check_fits", "find_head", "in_memory"]
