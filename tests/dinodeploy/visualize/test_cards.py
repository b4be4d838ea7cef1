"""Legends and colour scales inside images: always there where text can be read, never wider than half."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dinodeploy.visualize.cards import LONGEST, add_legend, add_scale, short

GREY = (120, 120, 120)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def drawn(lines: list[tuple[str, str, tuple[int, int, int]]], size: tuple[int, int]) -> np.ndarray:  # type: ignore[type-arg]
    image = Image.new("RGB", size, GREY)
    add_legend(image, lines)
    return np.asarray(image).astype(int)


def box(made: np.ndarray) -> tuple[int, int, int, int]:  # type: ignore[type-arg]
    """Left, top, right, bottom of what was drawn."""
    rows, columns = np.nonzero((made != GREY).any(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("size", [(160, 120), (640, 427), (3000, 2000)])
@pytest.mark.parametrize("name", ["cup", "a name that is much longer than the image" * 3])
def test_every_line_has_its_colour_and_fits(size: tuple[int, int], name: str) -> None:
    made = drawn([(name, f"{at}", colour) for at, colour in enumerate(COLOURS)], size)
    for colour in COLOURS:
        assert (made == colour).all(axis=-1).any(), "the swatch"
    left, top, right, bottom = box(made)
    assert right - left <= size[0] / 2 + 1
    assert bottom - top <= 0.6 * size[1] + 1
    assert left > 0
    assert bottom < size[1]


def test_lines_without_room_are_counted() -> None:
    """Of 30 classes the largest are named, and the last line says how many are not."""
    few = drawn([("cup", "1 %", (0, at, 200)) for at in range(11)], (640, 427))
    many = drawn([("cup", "1 %", (0, at, 200)) for at in range(30)], (640, 427))
    shown = {tuple(colour) for colour in many.reshape(-1, 3) if colour[0] == 0 and colour[2] == 200}
    assert shown == {(0, at, 200) for at in range(11)}
    assert box(many)[1] < box(few)[1], "one line more"


@pytest.mark.parametrize("size", [(1, 1), (12, 400), (400, 12)])
def test_no_card_where_nothing_can_be_read(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, GREY)
    add_legend(image, [("cup", "12", (255, 0, 0))])
    add_scale(image, "0.0", "9.9 m", "depth")
    assert (np.asarray(image) == GREY).all()


def test_a_scale_runs_from_dark_to_bright() -> None:
    image = Image.new("RGB", (600, 400), GREY)
    add_scale(image, "-0.69", "1.00", "cosine")
    left, _, right, _ = box(np.asarray(image).astype(int))
    brightness = np.asarray(image.convert("L")).astype(int)
    bars = [row for row in brightness if (np.diff(row[left + 8 : right - 8]) >= 0).all() and row.max() > 200]
    assert bars, "one row, at least, is the whole ramp"
    assert right - left < 300


def test_long_and_odd_names() -> None:
    assert short("a" * 99) == "a" * (LONGEST - 1) + "…"
    assert short("a\n\u202eb") == r"a\n\u202eb"
