"""The maps of `--what`, in one table: fitted on some looks, painted for any look.

A painter turns a look into layers of colours [h,w,3]. Attention has a layer for the mean of its heads and one
per head; every other map has one layer. Shapes: h w patch grid, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.errors import MisuseError
from dinodeploy.visualize.components import fit_components
from dinodeploy.visualize.foreground import Find, foreground_by_classifier, foreground_by_component
from dinodeploy.visualize.heat import Range, heat
from dinodeploy.visualize.look import Look

AUTO = "auto"
FOREGROUND = "foreground"


@dataclass(frozen=True)
class Layer:
    """Colours [h,w,3] of one map. range: what they mean, if they are values on a scale.

    mark: row and column of the patch that others are compared to, in the look that it is from.
    """

    name: str
    colours: ByteArray
    range: Range | None = None
    mark: tuple[int, int] | None = None


Layers = list[Layer]
Painter = Callable[[Look], Layers]


@dataclass(frozen=True)
class MapOptions:
    """What a map depends on besides the images.

    point: position in the first image, as shares of width and height, that similarity is measured to.
    mask: None, "auto" (first component), or a folder of masks to learn from.
    """

    point: tuple[float, float] = (0.5, 0.5)
    mask: str | None = None


def fit_painter(what: str, looks: Sequence[Look], options: MapOptions) -> tuple[Painter, str]:
    """A painter with one basis or scale for all images, and a line that says what it shows.

    Raises MisuseError for an unknown `what`, an unusable mask, or too few patches.
    """
    if what not in WHAT:
        raise MisuseError(f"--what {what!r} is unknown; known: {', '.join(WHAT)}")
    return WHAT[what](looks, options)


def _find_foreground(looks: Sequence[Look], mask: str) -> Find:
    if mask == AUTO:
        return foreground_by_component([look.patches for look in looks])
    if not Path(mask).is_dir():
        raise MisuseError(f"--mask {mask!r} is not a folder; wanted auto, or a folder of masks NAME.png")
    return foreground_by_classifier(looks, Path(mask))


def _pca(looks: Sequence[Look], options: MapOptions) -> tuple[Painter, str]:
    find = _find_foreground(looks, options.mask) if options.mask else None
    maps = [look.patches for look in looks]
    basis = fit_components(maps, [find(patches) for patches in maps] if find else None)
    shares = ", ".join(f"{share:.0%}" for share in basis.share)
    of = "the foreground's patches" if find else "all patches"

    def paint(look: Look) -> Layers:
        colours = basis.rgb(look.patches)
        return [Layer("PCA", colours * find(look.patches)[..., None] if find else colours)]

    return paint, f"three components fitted on {of}, {shares} of their variance"


def _foreground(looks: Sequence[Look], options: MapOptions) -> tuple[Painter, str]:
    find = _find_foreground(looks, options.mask or AUTO)
    share = np.concatenate([find(look.patches).ravel() for look in looks]).mean()

    def paint(look: Look) -> Layers:
        mask = find(look.patches).astype(np.uint8) * 255
        return [Layer(FOREGROUND, np.repeat(mask[..., None], 3, axis=-1))]

    return paint, f"{share:.0%} of all patches are foreground"


def _attention(looks: Sequence[Look], _: MapOptions) -> tuple[Painter, str]:
    def paint(look: Look) -> Layers:
        assert look.attention is not None
        heads = [("all heads", look.attention.mean(axis=0))]
        heads += [(f"head {index}", row) for index, row in enumerate(look.attention)]
        ranges = [Range("attention share", 0.0, float(row.max())) for _, row in heads]
        return [
            Layer(name, heat(row, span.low, span.high), span)
            for (name, row), span in zip(heads, ranges, strict=True)
        ]

    return paint, "share of CLS's attention that each patch gets, each map from 0 to its largest"


def _similarity(looks: Sequence[Look], options: MapOptions) -> tuple[Painter, str]:
    row, column = patch_at(looks[0].grid, options.point)
    query = looks[0].patches[row, column]
    maps = [similarity(look.patches, query) for look in looks]
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)

    def paint(look: Look) -> Layers:
        colours = heat(similarity(look.patches, query), low, high)
        mark = (row, column) if look is looks[0] else None
        return [Layer("similarity", colours, Range("cosine", low, high), mark)]

    where = f"row {row}, column {column} of {Path(looks[0].id).name}"
    return paint, f"cosine to the patch in {where}, from {low:.2f} to {high:.2f}"


def patch_at(grid: tuple[int, int], point: tuple[float, float]) -> tuple[int, int]:
    """Row and column of the patch at `point`, given as shares of width and height."""
    (h, w), (x, y) = grid, point
    return min(int(y * h), h - 1), min(int(x * w), w - 1)


def similarity(patches: FloatArray, query: FloatArray) -> FloatArray:
    """Cosine of every patch [h,w,D] to a feature [D]; 0 where either is zero."""
    lengths = np.linalg.norm(patches, axis=-1) * np.linalg.norm(query)
    dots = patches @ query
    return np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)


WHAT: dict[str, Callable[[Sequence[Look], MapOptions], tuple[Painter, str]]] = {
    "pca": _pca,
    "attention": _attention,
    "similarity": _similarity,
    FOREGROUND: _foreground,
}
