"""Find the first block where the engine's residual stream departs from the reference's.

golden.safetensors keeps the reference's stream for one photograph (`golden.Trace`), so no torch is
needed; the engine's comes from a copy of its graph with the stream as extra outputs
(`exporters/bisect.py`). A ViT has one stream, a ConvNeXt one in each of its stages.

How far the stream is off says when trouble began, but only roughly: an error stays in the stream, and a
block that adds little hides behind what others added. So what decides is each block's own addition:

    step_i = ‖(x_i - x_{i-1}) - (r_i - r_{i-1})‖ / ‖r_i - r_{i-1}‖       x engine, r reference

taken over CLS, storage tokens, a user's own and patches separately, the worst counts. Rounding of the
stream itself is forgiven first, element by element: four additions of half a unit in the last place, 2^-22
of the larger of |r_i| and |r_{i-1}|; a stream of 155,000 has no finer digits to add.

Nor does everything that a block gets wrong matter: where LayerScale is 1e-5, rounding may be a large part
of the little that is added. So the same difference is taken a second time, in units of the stream:

    effect_i = rms of ((x_i - x_{i-1}) - (r_i - r_{i-1})) / (rms of r_i over tokens, channel by channel)

What leads into a stream or out of the last one adds nothing to it, and is judged whole: its step is the
error of what it makes. Its `arriving` is the error of the stream that it took, in units of effect.

A place departs when its step is above the recipe's limit of relative Frobenius error (`parity.py`'s one
table), its effect above EFFECT times that limit, and its step above JUMP times what arrives and the step of
every place before it that has an effect. An error that grows slowly, as a narrow type's does, is no
departure, and what follows a fault is off only as a consequence.

Shapes: n blocks, T traced tokens or places of a map, R storage tokens, E tokens of a user's own, D the
stream's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import FloatArray, IntArray
from dinodeploy.errors import JudgementError, MisuseError
from dinodeploy.parity.golden import Trace
from dinodeploy.parity.judge import cosine, measure
from dinodeploy.parity.thresholds import THRESHOLDS, relative_limit

# Right engines of four to twelve blocks, S, B, L and H+ wide, lively and (S, L) driven past 160,000: largest
# step 0.37 of the limit (bf16; fp32 0.36), largest ratio to the steps before it 1.2; blocks 128 wide 1.8.
JUMP = 3.0
EFFECT = 0.1
STREAM_ROUNDING = 2.0**-22
QUIET = 0.1  # a channel counts as at least this part of the median channel's size
KINDS = ("cls", "storage", "extra", "patch")  # of tokens, in their order
ALIGNED = {"cls": "image_embedding", "patch": "patch_embedding"}  # what dino.txt makes of them
AFTER = "outputs"  # the place after the last stream


@dataclass(frozen=True)
class GroupError:
    """How far one group of tokens is off: relative Frobenius error and smallest cosine. None: not finite."""

    error: float | None
    cosine: float | None


@dataclass(frozen=True)
class Place:
    """One place in the model.

    Of a ViT: `tokens`, `blocks.<i>`, `outputs`. Of a ConvNeXt: `downsample_layers.<s>`, `stages.<s>.<i>`,
    `outputs`.
    """

    name: str
    step: float | None  # its own share, and what that does, as above; None: not finite
    effect: float | None
    groups: dict[str, GroupError]  # cls, storage and extra (where there are such tokens), patch
    arriving: float | None = 0.0


@dataclass(frozen=True)
class Stretch:
    """Blocks that add to one stream, in the reference and in the engine."""

    entry: str  # name of the place before its first block
    blocks: str  # what its blocks' names begin with
    trace: Trace
    stream: FloatArray  # the engine's, [n+1,1,T,D]


@dataclass(frozen=True)
class Bisection:
    """The error's growth and the first place that departs, if one does."""

    case: str
    recipe: str
    limit: float
    places: tuple[Place, ...]
    departs: str | None
    verdict: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tokens that are anywhere told apart; a ConvNeXt has CLS among its outputs alone."""
        found = {name for place in self.places for name in place.groups}
        return tuple(name for name in KINDS if name in found)


def bisect(
    case: str,
    stretches: Sequence[Stretch],
    outputs: tuple[Mapping[str, FloatArray], Mapping[str, FloatArray]],
    recipe: str,
    prefix: Mapping[str, int],
) -> Bisection:
    """Compare an engine's streams and its (got, wanted) outputs with the reference's.

    `prefix` says which tokens come before the patches, and how many: cls, storage, extra, in their order.
    Raises JudgementError when the engine has another number of blocks, MisuseError for an unknown recipe.
    """
    if recipe not in THRESHOLDS:
        raise MisuseError(f"no thresholds for recipe {recipe!r}; known: {', '.join(THRESHOLDS)}")
    places: list[Place] = []
    arriving: float | None = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for stretch in stretches:
            places += _follow(stretch, prefix, arriving)
            arriving = _arriving(stretch, prefix)
        places.append(_compare_outputs(*outputs, arriving))
    limit = relative_limit(recipe)
    departs = first_departure(places, limit)
    return Bisection(case, recipe, limit, tuple(places), departs, _sentence(places, departs, limit))


def first_departure(places: Sequence[Place], limit: float) -> str | None:
    """The rule of this file's head."""
    largest = 0.0
    for place in places:
        if place.step is None or place.effect is None or place.arriving is None:
            return place.name
        if place.effect <= EFFECT * limit:
            continue
        if place.step > limit and place.step > JUMP * max(largest, place.arriving):
            return place.name
        largest = max(largest, place.step)
    return None


def _follow(stretch: Stretch, prefix: Mapping[str, int], arriving: float | None) -> Iterator[Place]:
    """The place before the first block, then every block. Raises JudgementError."""
    stream, wanted = stretch.stream, stretch.trace.stream
    if stream.shape != wanted.shape:
        raise JudgementError(
            f"the engine's residual stream is {list(stream.shape)} (blocks + 1, images, tokens, width), "
            f"the reference's {list(wanted.shape)}: these are two models"
        )
    groups = _groups(stretch.trace.tokens, prefix)
    yield Place(stretch.entry, *_compare(stream[0], wanted[0], None, groups), arriving)
    for index in range(1, len(wanted)):
        before = (stream[index - 1], wanted[index - 1])
        yield Place(f"{stretch.blocks}{index - 1}", *_compare(stream[index], wanted[index], before, groups))


def _arriving(stretch: Stretch, prefix: Mapping[str, int]) -> float | None:
    """How far the stream is off at its end, in units of effect."""
    ends = (stretch.stream[-1], stretch.trace.stream[-1])
    return _compare(*ends, None, _groups(stretch.trace.tokens, prefix))[1]


def _groups(tokens: IntArray, prefix: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Which of the traced tokens belong to each kind of `prefix`, and which are patches."""
    groups, start = {}, 0
    for name, count in prefix.items():
        groups[name] = (tokens >= start) & (tokens < start + count)
        start += count
    groups["patch"] = tokens >= start
    return {name: members for name, members in groups.items() if members.any()}


def _compare(
    got: FloatArray,
    wanted: FloatArray,
    before: tuple[FloatArray, FloatArray] | None,
    groups: Mapping[str, NDArray[np.bool_]],
) -> tuple[float | None, float | None, dict[str, GroupError]]:
    """Step, effect and every group's error of one place; all arrays [1,T,D]."""
    steps, effects, errors = [], [], {}
    sizes = _channel_sizes(wanted)
    for name, members in groups.items():
        x, r = got[:, members].astype(np.float64), wanted[:, members].astype(np.float64)
        error = _ratio(x - r, r)
        errors[name] = GroupError(error, _finite(float(cosine(x, r).min())) if error is not None else None)
        difference, added = np.abs(x - r), r
        if before is not None:
            x0, r0 = (side[:, members].astype(np.float64) for side in before)
            rounding = STREAM_ROUNDING * np.maximum(np.abs(r), np.abs(r0))
            difference = np.maximum(np.abs((x - x0) - (r - r0)) - rounding, 0.0)
            added = r - r0
        steps.append(_ratio(difference, added))
        effects.append(_ratio(difference / sizes, np.ones_like(difference)))
    return _worst(steps), _worst(effects), errors


def _channel_sizes(wanted: FloatArray) -> NDArray[np.float64]:
    """[1,T,D] -> [D]: each channel's size over the tokens; none is taken for quieter than QUIET allows."""
    sizes = np.sqrt(np.square(wanted.astype(np.float64)).mean(axis=(0, 1)))
    return np.maximum(sizes, max(QUIET * float(np.median(sizes)), float(np.finfo(np.float32).tiny)))


def _compare_outputs(
    got: Mapping[str, FloatArray], wanted: Mapping[str, FloatArray], arriving: float | None
) -> Place:
    """CLS [B,D], storage [B,R,D], extra [B,E,D] and patches [B,h,w,D] after the last norm.

    Nothing is added there: the error itself is step and effect.
    """
    groups: dict[str, GroupError] = {}
    for kind in KINDS:
        name = kind if kind in wanted else ALIGNED.get(kind, "")
        if name in wanted:
            if name not in got or got[name].shape != wanted[name].shape or not np.isfinite(got[name]).all():
                groups[kind] = GroupError(None, None)
                continue
            metrics = measure(name, got[name], wanted[name])
            groups[kind] = GroupError(metrics["relative_frobenius"], metrics["cosine"])
    worst = _worst([group.error for group in groups.values()])
    return Place(AFTER, worst, worst, groups, arriving)


def _ratio(error: NDArray[np.float64], size: NDArray[np.float64]) -> float | None:
    """‖error‖ / ‖size‖; 0 where nothing is off, None where that is not finite."""
    norm = float(np.linalg.norm(error))
    if norm == 0.0:
        return 0.0
    length = float(np.linalg.norm(size))
    return _finite(norm / length) if length > 0.0 else None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _worst(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return max(finite) if len(finite) == len(values) else None


def _sentence(places: Sequence[Place], departs: str | None, limit: float) -> str:
    if departs is None:
        worst = max(places, key=lambda place: place.step or 0.0)
        return f"no place departs: the largest step is {worst.step:.1e}, at {worst.name} (limit {limit:.0e})"
    index = next(i for i, place in enumerate(places) if place.name == departs)
    step = places[index].step
    size = "not finite" if step is None else f"step {step:.1e}"
    before = [place.step for place in places[:index] if place.step is not None]
    return f"first departs at {departs} ({size}" + (f" after at most {max(before):.1e})" if before else ")")
