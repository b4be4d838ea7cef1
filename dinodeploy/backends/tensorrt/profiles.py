"""Which shape profile of an engine takes an input, and how much of a batch.

Height and width decide. A batch beyond the profile's largest is cut up and one below its smallest filled up,
since rows do not depend on each other.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dinodeploy.backends.tensorrt.refuse import rebuild_command
from dinodeploy.errors import OutsideProfileError

Shape = tuple[int, int, int]  # B, H, W


@dataclass(frozen=True)
class Profile:
    """One shape profile: smallest, usual and largest input, each (B, H, W)."""

    index: int
    min: Shape
    opt: Shape
    max: Shape

    def takes(self, height: int, width: int) -> bool:
        return self.min[1] <= height <= self.max[1] and self.min[2] <= width <= self.max[2]

    def distance(self, batch: int, height: int, width: int) -> float:
        """How far an input is from what the profile was tuned for: the sum of the sides' log ratios."""
        pairs = zip((min(batch, self.max[0]), height, width), self.opt, strict=True)
        return sum(abs(math.log(side / usual)) for side, usual in pairs)

    def __str__(self) -> str:
        (b0, h0, w0), (b1, h1, w1) = self.min, self.max
        return f"batch {b0} to {b1}, {h0}x{w0} to {h1}x{w1} px"


def read_profiles(engine: Any, tensor: str) -> tuple[Profile, ...]:
    """The profiles of a deserialised engine for its input `tensor`, [B,3,H,W] or bytes [B,H,W,3]."""
    profiles = []
    takes_bytes = str(engine.get_tensor_dtype(tensor)).endswith("UINT8")
    for index in range(engine.num_optimization_profiles):
        shapes = [tuple(dims) for dims in engine.get_tensor_profile_shape(tensor, index)]
        smallest, usual, largest = ((b, *(rest[:2] if takes_bytes else rest[1:])) for b, *rest in shapes)
        profiles.append(Profile(index, smallest, usual, largest))
    return tuple(profiles)


def choose_profile(profiles: Sequence[Profile], shape: Shape, plan: Path, module: str) -> Profile:
    """The profile tuned nearest to `shape` among those that take its height and width.

    Raises OutsideProfileError, one line with the limits and the command that widens them.
    """
    batch, height, width = shape
    fitting = [profile for profile in profiles if profile.takes(height, width)]
    if fitting:
        # fewer parts first: a whole batch at once before one that has to be cut up
        return min(fitting, key=lambda p: (math.ceil(batch / p.max[0]), p.distance(batch, height, width)))
    limits = " or ".join(str(profile) for profile in profiles)
    (b0, h0, w0), (b1, h1, w1), (b2, h2, w2) = profiles[0].min, profiles[0].opt, profiles[0].max
    sizes = f"{min(height, h0)}x{min(width, w0)}:{h1}x{w1}:{max(height, h2)}x{max(width, w2)}"
    command = rebuild_command(plan, module, f" --batch {b0}:{b1}:{b2} --imgsz {sizes}")
    raise OutsideProfileError(
        f"input of {height}x{width} px is outside what {plan.name} was built for, {limits}; "
        f"build it wider: {command}"
    )


class Part(NamedTuple):
    """Rows `start` to `stop` of a batch, filled up to `size` rows with the last one."""

    start: int
    stop: int
    size: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def cut(batch: int, profile: Profile) -> Iterator[Part]:
    """Parts of a batch that the profile takes, as even as can be; too small ones are to be filled up."""
    smallest, largest = profile.min[0], profile.max[0]
    count = math.ceil(batch / largest)
    for index in range(count):
        start, stop = (-(-batch * edge // count) for edge in (index, index + 1))
        yield Part(start, stop, max(stop - start, smallest))
