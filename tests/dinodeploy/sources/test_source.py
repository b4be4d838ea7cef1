"""Options of sources, and what shows that an image has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.sources import SourceOptions, Stamp, open_source, stamp_of
from tests.dinodeploy.sources.every_kind import IMAGES, KINDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every: got 0, wanted a whole number of frames"),
        ({"every": 1.5}, "every: got 1.5"),
        ({"timeout": 0}, "timeout: got 0, wanted a positive number"),
        ({"timeout": float("inf")}, "timeout: got inf"),
        ({"column": ""}, "column: got ''"),
        ({"id_column": 3}, "id column: got 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        SourceOptions(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stamp_shows_that_an_image_has_changed(kind: str) -> None:
    inputs = KINDS[kind]("x")
    source = open_source(inputs)
    stamps = [stamp_of(source, index) for index in range(len(source.ids))]
    assert len(stamps) == 2
    assert all(stamp.size and stamp.mtime_ns for stamp in stamps)
    if isinstance(source.image(0), bytes) and kind in ("tar", "zip"):
        assert [stamp.size for stamp in stamps] == [len(data) for data in IMAGES.values()]
    source.close()
    for path in Path.cwd().rglob("*"):
        if path.is_file():
            os.utime(path, ns=(1, 1))
    again = open_source(inputs)
    assert [stamp_of(again, index).mtime_ns for index in range(2)] == [1, 1]
    again.close()


def test_stamps_of_several_inputs() -> None:
    inputs = [*KINDS["folder"]("a"), *KINDS["tar"]("b"), "a/rocket.jpg", "none.jpg"]
    Path("none.jpg").symlink_to("nowhere")
    source = open_source(inputs)
    stamps = [stamp_of(source, index) for index in range(len(source.ids))]
    assert [stamp.size for stamp in stamps] == [len(data) for data in IMAGES.values()] * 2 + [None]
    assert stamps[0].mtime_ns == Path("a/coffee.jpg").stat().st_mtime_ns


def test_what_has_no_stamp() -> None:
    Path("cut.parquet").touch()
    assert stamp_of(open_source(["cut.parquet"]), 0) == Stamp()
