"""The pixel matrix: count which files are read right, refused, or wrong.

python -m tests.support.images.matrix       a table for docs/sources.md
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from dinodeploy.errors import ImageError
from dinodeploy.images.open import open_image
from tests.support.images.matrix_case import Case
from tests.support.images.other_matrix import bmp_cases, jpeg_cases, pillow_cases, png_cases, ppm_cases
from tests.support.images.tiff_matrix import tiff_cases

FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    "tiff": tiff_cases,
    "png": png_cases,
    "jpeg": jpeg_cases,
    "bmp": bmp_cases,
    "ppm": ppm_cases,
    "others": pillow_cases,
}


@dataclass
class Count:
    """How the cases of one format came out. wrong, lost (refused, but readable): a line each."""

    read: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.read + self.refused + len(self.wrong)


def count_family(name: str, step: int = 1) -> Count:
    """Open every `step`-th case of a format."""
    count = Count()
    for case in islice(FAMILIES[name](), 0, None, step):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of odd files
                seen = np.asarray(open_image(case.data)).astype(float)
        except ImageError as error:
            count.refused += 1
            count.reasons[str(error)] += 1
            if case.wanted is not None:
                count.lost.append(f"{case.name}: {error}")
            continue
        if case.wanted is None:
            count.wrong.append(f"{case.name}: was read, must be refused")
        elif seen.shape != case.wanted.shape:
            count.wrong.append(f"{case.name}: {seen.shape}, wanted {case.wanted.shape}")
        elif (off := np.abs(seen - np.rint(case.wanted)).max()) > case.allowed:
            count.wrong.append(f"{case.name}: off by {off:g}")
        else:
            count.read += 1
    return count


def main() -> None:
    print("| format | files | read | refused | wrong |\n|---|---|---|---|---|")
    for name in sys.argv[1:] or FAMILIES:
        count = count_family(name)
        print(f"| {name} | {count.total} | {count.read} | {count.refused} | {len(count.wrong)} |")
        for line in (*count.wrong[:20], *count.lost[:20]):
            print("wrong or lost:", line, file=sys.stderr)
        for reason, times in count.reasons.most_common():
            print(f"{times:6d} {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
