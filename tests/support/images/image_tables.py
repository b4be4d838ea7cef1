"""A table with one encoded image per row, as pyarrow holds it. Needs pyarrow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.images.image_files import NAMES, encoded

pa = pytest.importorskip("pyarrow")

ROWS = 90
IMAGES = [encoded(NAMES[row % 6], (60 + row, 45)) for row in range(ROWS)]  # all sizes differ


def table(kind: str = "struct") -> Any:
    """Columns image (of the given Arrow type), key and label."""
    if kind == "struct":
        cells = [{"path": f"{row}.jpg", "bytes": data} for row, data in enumerate(IMAGES)]
        images = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        images = pa.array(IMAGES, getattr(pa, kind)())
    return pa.table({"image": images, "key": [f"k{row}" for row in range(ROWS)], "label": range(ROWS)})
