"""A slow decoder of COCO's compressed run lengths, written from the format's description."""

from __future__ import annotations

from typing import Any

import numpy as np


def decode_mask(encoded: dict[str, Any]) -> np.ndarray[Any, Any]:
    """{"size": [h, w], "counts": "..."} -> bool [h,w]."""
    height, width = encoded["size"]
    numbers: list[int] = []
    bits, shift = 0, 0
    for sign in encoded["counts"]:
        value = ord(sign) - 48
        assert 0 <= value < 64
        bits |= (value & 31) << shift
        shift += 5
        if value & 32:
            continue
        if value & 16:
            bits -= 1 << shift
        numbers.append(bits + (numbers[-2] if len(numbers) > 2 else 0))
        bits, shift = 0, 0
    assert shift == 0
    assert sum(numbers) == height * width
    values: list[int] = []
    for index, count in enumerate(numbers):
        assert count >= 0
        values += [index % 2] * count
    return np.array(values, bool).reshape(width, height).T
