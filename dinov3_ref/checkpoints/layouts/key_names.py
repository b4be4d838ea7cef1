"""Translate an official key to another layout by a table of stems.

A stem is a key without `.weight` or `.bias`, with `{i}` for the block index. One table works in both
directions: the official keys of a file follow from its configuration, and each is translated once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_OFFICIAL_KEY = re.compile(
    r"(?:(?P<blocks>blocks)\.(?P<index>\d+)\.)?(?P<stem>.+?)(?P<param>\.weight|\.bias)?"
)


def spell(official_key: str, stems: Mapping[str, str]) -> str:
    """`official_key` translated by the table; a stem that is not in it keeps its name."""
    match = _OFFICIAL_KEY.fullmatch(official_key)
    assert match is not None, official_key
    stem = f"blocks.{{i}}.{match['stem']}" if match["blocks"] else match["stem"]
    return stems.get(stem, stem).replace("{i}", match["index"] or "") + (match["param"] or "")
