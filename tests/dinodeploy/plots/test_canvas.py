"""Axes and labels, by hand."""

from __future__ import annotations

import pytest

from dinodeploy.plots.canvas import apart, as_power, decades, log_place, short


@pytest.mark.parametrize(
    ("ys", "wanted"),
    [
        ([100.0, 200.0], [100.0, 200.0]),
        ([198.0, 199.0, 200.0], [170.0, 185.0, 200.0]),
        ([200.0, 200.0], [185.0, 200.0]),
        ([51.0, 51.0, 51.0], [50.0, 65.0, 80.0]),
    ],
)
def test_labels_are_moved_apart(ys: list[float], wanted: list[float]) -> None:
    assert apart(ys, 50.0, 200.0) == wanted


def test_decades() -> None:
    assert decades([3e-7, 1e-5]) == (-7, -5)
    assert decades([1e-5], least=2) == (-5, -3)
    assert decades([None, 0.0]) == (0, 1)


def test_places_on_a_logarithmic_axis() -> None:
    places = [log_place(value, -6, -4, 100, 300) for value in (1e-6, 1e-5, 1e-4)]
    assert places == pytest.approx([100, 200, 300])
    assert [log_place(value, -6, -4, 100, 300) for value in (0.0, 1e-9, 1.0)] == [100, 100, 300]


def test_numbers_in_words() -> None:
    assert [as_power(power) for power in (-4, -3, 0, 5, 6)] == ["1e-4", "0.001", "1", "100,000", "1e6"]
    assert [short(value) for value in (None, 0.0, 1.26e-5)] == ["not finite", "0", "1.3e-05"]
