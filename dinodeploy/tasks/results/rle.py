"""Run-length encoded masks as COCO stores them: runs down the columns, packed into a string.

    {"size": [h, w], "counts": "..."}

Runs of 0 and 1 alternate, beginning with 0. From the fourth on, each is the difference to the run two before.
A number takes as many signs as it needs: five bits each, the lowest first, a sixth bit where more follow, and
48 added, so that the signs are printable.
Source: https://cocodataset.org/#format-data; the packing is of its program library's mask interface.

Shapes: h, w pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, IndexArray

_BITS, _SIGN, _MORE, _OFFSET = 5, 0x10, 0x20, 48


def encode_mask(mask: AnyArray) -> dict[str, Any]:
    """A mask [h,w], true where the object is -> its COCO form."""
    height, width = mask.shape
    return {"size": [int(height), int(width)], "counts": pack_runs(run_lengths(mask))}


def run_lengths(mask: AnyArray) -> IndexArray:
    """Lengths of alternating runs of 0 and 1, down the columns; the first is of 0 and may be empty."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return np.concatenate([[0], runs]) if flat.size and flat[0] else runs


def pack_runs(runs: IndexArray) -> str:
    """Run lengths as a string of printable signs."""
    steps = np.asarray(runs, np.int64).copy()
    steps[3:] -= np.asarray(runs, np.int64)[1:-2]
    signs = bytearray()
    for step in steps.tolist():
        more = True
        while more:
            low, step = step & 0x1F, step >> _BITS
            more = step != (-1 if low & _SIGN else 0)
            signs.append(_OFFSET + (low | _MORE if more else low))
    return signs.decode("ascii")
