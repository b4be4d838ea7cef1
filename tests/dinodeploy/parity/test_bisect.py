"""The rule of the bisection, by hand: what counts as a departure and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dinodeploy.errors import JudgementError, MisuseError
from dinodeploy.parity.bisect import EFFECT, JUMP, Bisection, Place, Stretch, bisect, first_departure
from dinodeploy.parity.golden import Trace
from dinodeploy.parity.thresholds import THRESHOLDS

N, R, D = 4, 4, 16  # blocks, storage tokens, width
PREFIX = {"cls": 1, "storage": R}
TOKENS = np.array([0, 1, 2, 3, 4, 7, 11, 30], np.int32)


LIMIT = 1e-3


def steps(*values: float | None) -> list[Place]:
    names = ["tokens", *(f"blocks.{i}" for i in range(len(values) - 1))]
    return [Place(name, value, value, {}) for name, value in zip(names, values, strict=True)]


@pytest.mark.parametrize(
    ("values", "departs"),
    [
        ((1e-7, 2e-7, 3e-7), None),
        ((1e-7, 2e-3, 3e-7, 5e-1), "blocks.0"),  # what follows is a consequence
        ((1e-7, 2e-7, 3e-2, 2e-2), "blocks.1"),
        ((2e-2, 2e-2, 2e-2), "tokens"),
        ((1e-7, None, 1e-7), "blocks.0"),  # not finite
        ((5e-4, 9e-4, 1.5e-3, 2.5e-3, 4e-3), None),  # slow growth, though it passes the limit
        ((1e-7, 2e-7, 9e-4), None),  # a jump below the limit
    ],
)
def test_the_rule(values: tuple[float | None, ...], departs: str | None) -> None:
    assert first_departure(steps(*values), LIMIT) == departs


def test_a_step_without_effect_neither_departs_nor_hides_one() -> None:
    places = steps(1e-7, 0.2, 1e-2, 1e-2)
    quiet = [replace(place, effect=EFFECT * LIMIT / 2) if place.step == 0.2 else place for place in places]
    assert first_departure(places, LIMIT) == "blocks.0"
    assert first_departure(quiet, LIMIT) == "blocks.1"


def _trace(scale: float = 1.0) -> Trace:
    """A stream with `scale` in one channel, to which every block adds about one."""
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(N + 1, 1, len(TOKENS), D))
    parts[0, ..., 3] += scale
    stream = parts.cumsum(axis=0).astype(np.float32)
    return Trace(TOKENS, stream[0], stream[1:])


def _bisect(
    trace: Trace, stream: np.ndarray, recipe: str = "fp32", prefix: dict[str, int] = PREFIX
) -> Bisection:
    cls = {"cls": np.ones((1, D), np.float32)}
    return bisect("wide", [Stretch("tokens", "blocks.", trace, stream)], (cls, cls), recipe, prefix)


def test_tokens_of_ones_own_are_no_patches() -> None:
    """The three after the storage tokens, one of which is traced here."""
    trace = _trace()
    moved = trace.stream.copy()
    moved[2:, :, (TOKENS > R) & (TOKENS <= R + 3)] *= 1.5
    found = _bisect(trace, moved, prefix={**PREFIX, "extra": 3})
    errors = {name: group.error for name, group in found.places[2].groups.items()}
    assert list(errors) == ["cls", "storage", "extra", "patch"]
    assert errors == {"cls": 0, "storage": 0, "extra": pytest.approx(0.5), "patch": 0}


def test_a_departure_is_seen_in_any_group_of_tokens() -> None:
    trace = _trace()
    for token, group in ((0, "cls"), (2, "storage"), (7, "patch")):
        stream = trace.stream
        stream[3:, 0, token] += 0.01
        found = _bisect(trace, stream)
        assert found.departs == "blocks.2"
        assert found.verdict.startswith("first departs at blocks.2 (step ")
        off = {name for name, error in found.places[3].groups.items() if error.error}
        assert off == {group}
        assert found.places[4].step == pytest.approx(0, abs=1e-6), "the blocks after it add what they should"


def test_a_small_fault_under_a_massive_channel() -> None:
    """155,000 in one channel: the stream is off by a millionth only, and the block by a tenth."""
    trace = _trace(155_000.0)
    stream = trace.stream
    stream[2:, :, :, 5] += 0.3
    found = _bisect(trace, stream)
    assert found.departs == "blocks.1"
    error = found.places[2].groups["patch"].error
    assert error is not None
    assert error < found.limit


def test_rounding_of_a_massive_stream_is_no_departure() -> None:
    """One unit in the last place of 155,000 is 0.016: a hundredth of what a block adds."""
    trace = _trace(155_000.0)
    stream = trace.stream
    stream[1::2, :, :, 3] = np.nextafter(stream[1::2, :, :, 3], np.float32(np.inf))
    assert _bisect(trace, stream).departs is None
    stream[1, :, :, 5] += 0.016
    assert _bisect(trace, stream).departs == "blocks.0", "the same error where it is no rounding"


def test_blocks_that_add_nothing() -> None:
    still = _trace().embedded
    trace = Trace(TOKENS, still, np.stack([still] * N))
    assert _bisect(trace, trace.stream).departs is None
    moved = trace.stream
    moved[2:] += 1e-2
    assert _bisect(trace, moved).departs == "blocks.1"


def test_a_block_that_hardly_adds_may_add_it_wrong() -> None:
    """LayerScale of 1e-5: a hundredth of that is a large step, and nothing to the stream."""
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(N + 1, 1, len(TOKENS), D))
    parts[2] *= 1e-5
    right = Trace(TOKENS, parts[0].astype(np.float32), parts.cumsum(axis=0)[1:].astype(np.float32))
    wrong = parts.copy()
    wrong[2] *= 1.01
    stream = wrong.cumsum(axis=0).astype(np.float32)
    found = _bisect(right, stream)
    assert found.departs is None
    assert found.places[2].step is not None
    assert found.places[2].step > 100 * found.limit
    wrong[4] *= 1.0001
    assert _bisect(right, wrong.cumsum(axis=0).astype(np.float32)).departs == "blocks.3"


def test_values_that_are_not_finite() -> None:
    trace = _trace()
    stream = trace.stream
    stream[2:, 0, 6, 1] = np.inf
    found = _bisect(trace, stream)
    assert (found.departs, found.places[2].step) == ("blocks.1", None)
    assert found.places[2].groups["patch"].error is None
    assert "blocks.1 (not finite after at most" in found.verdict


@pytest.mark.parametrize("recipe", THRESHOLDS)
def test_the_limit_follows_the_table(recipe: str) -> None:
    (row,) = (row for row in THRESHOLDS[recipe] if row.metric == "relative_frobenius")
    trace = _trace()
    assert _bisect(trace, trace.stream, recipe).limit == row.limit
    assert JUMP > 1


def test_two_models_and_unknown_recipes_are_refused() -> None:
    trace = _trace()
    with pytest.raises(JudgementError, match="these are two models"):
        _bisect(trace, trace.stream[:-1])
    with pytest.raises(MisuseError, match="no thresholds for recipe 'fp4'"):
        _bisect(trace, trace.stream, "fp4")
