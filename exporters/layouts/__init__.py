"""Folders in the layouts of other libraries, made from judged bundles."""

from __future__ import annotations

__all__: list[str] = []
