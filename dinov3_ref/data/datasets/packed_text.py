"""A list of strings in two numpy arrays, so that forked workers share its memory.

Reading a Python string writes its reference count, so a list of a million strings is gradually copied into
every forked worker (pytorch/pytorch #13246). Arrays stay shared.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class PackedText:
    """A read-only sequence of strings."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self.ends):
            raise IndexError(f"string {index} of {len(self.ends)}")
        start = self.ends[index - 1] if index else 0
        return self.bytes[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")
