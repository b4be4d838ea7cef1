"""Rows of one shard, made in threads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import ImageError
from dinodeploy.tasks.results.pending import PredictionRows, Workers


def make(
    position: int, id: str, outputs: Mapping[str, FloatArray], size: tuple[int, int], folder: Path | None
) -> dict[str, Any]:
    time.sleep(0.02 * (3 - position))
    if id == "gone":
        raise ImageError("gone: no longer there")
    if id == "bug":
        raise RuntimeError("bug")
    return {"id": id, "value": float(outputs["out"][0])}


@pytest.fixture
def rows() -> Any:
    workers = Workers(make, 2)
    yield PredictionRows(("out",), workers)
    workers.close()


def test_rows_keep_the_order_of_the_listing(rows: PredictionRows) -> None:
    buffer = np.zeros(1, np.float32)  # an engine's, used again
    rows.quarantine(1, "unreadable", "empty")
    for position, id in ((2, "c"), (0, "a"), (3, "gone")):
        buffer[0] = position
        assert rows.add(position, id, {"out": buffer}, (1, 1)) == ""
    assert [(made.row, made.reason) for made in rows.wait()] == [
        ({"id": "a", "value": 0}, ""),
        ({"id": "unreadable"}, "empty"),
        ({"id": "c", "value": 2}, ""),
        ({"id": "gone"}, "gone: no longer there"),
    ]


def test_outputs_that_are_not_finite_are_refused(rows: PredictionRows) -> None:
    assert "'out' is not finite" in rows.add(0, "a", {"out": np.array([np.inf], np.float32)}, (1, 1))


def test_a_bug_is_not_hidden(rows: PredictionRows) -> None:
    rows.add(0, "bug", {"out": np.zeros(1, np.float32)}, (1, 1))
    with pytest.raises(RuntimeError, match="bug"):
        rows.wait()
