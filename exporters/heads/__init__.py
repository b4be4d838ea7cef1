"""Export a head with its backbone: trace the head, append it to every graph of a bundle, judge the result.

head -> trace_head -> attach -> add_head (an existing bundle), bundle/export.py (a new bundle)
"""

from __future__ import annotations

from exporters.heads.add_head import add_head, find_head, in_memory
from exporters.heads.attach import attach_head, check_fits
from exporters.heads.choose import choose_head

__all__ = ["add_head", "attach_head", "check_fits", "choose_head", "find_head", "in_memory"]
