"""Read dataset strings of the official form: NAME:split=TRAIN:root=FOLDER (docs/spec.md 4.14)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dinov3_ref.errors import DataError


def official_options(text: str, splits: Iterable[str]) -> tuple[str, str]:
    """(root, split) of a string; without a split, the first of `splits`. `extra` is not needed.

    A root may contain `:` and `=`, but no `:root=`, `:split=` or `:extra=`. Raises `DataError`.
    """
    name, _, rest = text.partition(":")
    known = tuple(splits)
    pieces = re.split(r":(?=(?:root|extra|split)=)", rest) if rest else []
    options = dict(piece.partition("=")[::2] for piece in pieces)
    split = options.pop("split", known[0]).upper()
    root = options.pop("root", "")
    options.pop("extra", None)
    if options or split not in known:
        wanted = f"root=FOLDER and split={'|'.join(known)}" if known[0] else "root=FOLDER"
        raise DataError(f"{text!r} cannot be read; wanted {name}: with {wanted}")
    if not root:
        raise DataError(f"{text!r} names no folder; add it: {text}:root=FOLDER")
    return root, split
