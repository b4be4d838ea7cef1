"""Which sizes a module takes, and the golden cases at them.

A module that fails at other sizes than its own, or with two images, is exported with those fixed. One whose
layers halve maps may want more than the patch size: multiples of 2 and 4 times it are tried.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import nn

from dinodeploy.errors import ExportError, MisuseError, reason_of
from dinodeploy.images.preprocess import Preprocess
from exporters.bundle.golden import CASES, Cases
from exporters.modules.explain import why_not_traced

AXES = ("batch", "height", "width")
MULTIPLES = (1, 2, 4)  # of the stride
# At one size: more photographs in place of more sizes.
FIXED_CASES: Cases = (
    ("own_size", ("astronaut", "chelsea"), None),
    ("others", ("coffee", "retina", "rocket"), None),
)


@dataclass(frozen=True)
class Sizes:
    """What a module takes: `preprocess` has the multiple of both sides, `fixed` what is not free, and why.

    least: patches along the shorter side of the smallest image that it takes.
    """

    preprocess: Preprocess
    fixed: tuple[str, ...] = ()
    reason: str = ""
    least: int = 1

    def with_fixed(self, axes: Collection[str], reason: str) -> Sizes:
        """The same with more axes fixed."""
        both = {*self.fixed, *axes}
        return replace(self, fixed=tuple(axis for axis in AXES if axis in both), reason=reason)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is fixed, at what, and why; nothing where all is free."""
        own = f"{self.preprocess.height}x{self.preprocess.width}"
        at = [own] if {"height", "width"} & set(self.fixed) else []
        at += ["one image"] if "batch" in self.fixed else []
        why = self.reason or "as asked"
        return (f"{', '.join(self.fixed)} fixed: {' and '.join(at)} ({why})",) if self.fixed else ()

    @property
    def cases(self) -> Cases:
        """The golden cases at sizes that the module takes."""
        free = [(name, photos, grid and enlarge(grid, self.least)) for name, photos, grid in CASES]
        cases: Cases = FIXED_CASES if {"height", "width"} & set(self.fixed) else free
        if "batch" not in self.fixed:
            return cases
        return tuple((f"{name}_{one}", (one,), grid) for name, photos, grid in cases for one in photos)


def enlarge(grid: tuple[int, int], least: int) -> tuple[int, int]:
    """`grid`, with as many rows and columns more as its shorter side lacks of `least`."""
    more = max(least - min(grid), 0)
    return grid[0] + more, grid[1] + more


def check_dynamic(dynamic: Collection[str] | None) -> tuple[str, ...]:
    """The axes that are fixed by request. Raises MisuseError for an unknown axis."""
    if dynamic is None:
        return ()
    for axis in dynamic:
        if axis not in AXES:
            raise MisuseError(f"dynamic {axis!r} is unknown; wanted some of {', '.join(AXES)}")
    if ("height" in dynamic) != ("width" in dynamic):
        raise MisuseError("dynamic: height and width are free or fixed together")
    return tuple(axis for axis in AXES if axis not in dynamic)


def find_sizes(
    module: nn.Module, preprocess: Preprocess, channels: int, fixed: Collection[str], *, allowed: bool
) -> Sizes:
    """The sizes that `module` runs at. `fixed`: by request; `allowed`: whether more may be fixed.

    Raises ExportError for a module that fails at its own size, or at others where they must be free.
    """
    own = (preprocess.height, preprocess.width)
    sizes = Sizes(preprocess, tuple(fixed))
    if error := _fails(module, (1, channels, *own)):
        raise ExportError(
            f"the module fails on an image of {own[0]}x{own[1]}: {why_not_traced(error)}; give the size that "
            "it takes (imgsz)"
        )
    if "batch" not in fixed and (error := _fails(module, (2, channels, *own))):
        if not allowed:
            raise ExportError(
                f"the module fails on two images: {why_not_traced(error)}; leave batch out of dynamic"
            )
        sizes = sizes.with_fixed(("batch",), f"the module takes one image: {reason_of(error)}")
    if "height" in fixed:
        return sizes
    batch = 1 if "batch" in sizes.fixed else 2
    failure: Exception | None = None
    for multiple in MULTIPLES:
        p = preprocess.patch_size * multiple
        if own[0] % p or own[1] % p:
            continue
        grids = [grid for _, _, grid in CASES if grid is not None]
        failures = (_fails(module, (batch, channels, h * p, w * p)) for h, w in grids)
        failure = next((one for one in failures if one is not None), None)
        if failure is None:
            return replace(sizes, preprocess=replace(preprocess, patch_size=p))
    assert failure is not None
    if not allowed:
        raise ExportError(
            f"the module takes images of {own[0]}x{own[1]} only: {why_not_traced(failure)}; leave height and "
            "width out of dynamic"
        )
    return sizes.with_fixed(("height", "width"), f"the module takes no other size: {reason_of(failure)}")


def _fails(module: nn.Module, shape: tuple[int, ...]) -> Exception | None:
    """What the module raises on noise of `shape`, or None."""
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            module(pixels)
    except Exception as error:  # a user's own code may raise any class
        return error
    return None
