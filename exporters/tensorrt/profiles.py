"""Optimisation profiles, the input shapes that an engine accepts: predefined or given by the user.

A profile holds three shapes (B, H, W): smallest, usual (kernels are chosen for it) and largest. H and W are
pixels and multiples of the patch size. One engine can have several profiles, each fast in its range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase

Size = tuple[int, int]  # H, W


@dataclass(frozen=True)
class ReadyProfile:
    """Ranges of batch size and of side length in patches; `usual` None means the bundle's own input size.

    For a ConvNeXt, whose patches are 32 pixels wide, sides count in units of 16 pixels, rounded down to
    patches.
    """

    batch: tuple[int, int, int]
    smallest: int
    usual: int | None
    largest: int


# 7 patches (112 pixels) is the smallest side of the golden cases, on which the judge runs an engine.
READY: dict[str, tuple[ReadyProfile, ...]] = {
    "usual": (ReadyProfile((1, 8, 32), 7, None, 32),),
    "edge": (ReadyProfile((1, 1, 1), 7, None, 32),),
    "server": (ReadyProfile((1, 32, 64), 7, None, 16), ReadyProfile((1, 4, 16), 16, 32, 64)),
    "dense": (ReadyProfile((1, 1, 2), 7, 48, 96),),
}
USUAL = "usual"
LARGEST_UNIT = 16  # pixels


def choose_profiles(
    ready: str | None,
    batch: Sequence[str],
    imgsz: Sequence[str],
    preprocess: Preprocess,
    least_side: int = 1,
) -> tuple[ProfileFacts, ...]:
    """Profiles from `--profile`, or from `--batch` and `--imgsz` with one text per profile.

    If one of the two is given once and the other several times, it applies to all; if it is missing, the
    predefined set "usual" supplies it. least_side: pixels that both sides must have. Raises MisuseError for a
    contradiction, an unreadable value or a size that is too small.
    """
    if not batch and not imgsz:
        return ready_profiles(ready or USUAL, preprocess, least_side)
    if ready is not None:
        raise MisuseError(f"--profile {ready} sets batch and size already; leave out --batch and --imgsz")
    usual = ready_profiles(USUAL, preprocess, least_side)[0]
    batches = [parse_batches(text) for text in batch] or [(usual.min[0], usual.opt[0], usual.max[0])]
    sizes = [parse_sizes(text, preprocess.patch_size) for text in imgsz]
    for size in (min(three) for three in sizes):
        if min(size) < least_side:
            raise MisuseError(
                f"--imgsz: {size[0]}x{size[1]} is too small; this model takes {least_side} px or more on "
                "each side"
            )
    sizes = sizes or [(usual.min[1:], usual.opt[1:], usual.max[1:])]
    count = max(len(batches), len(sizes))
    if {len(batches), len(sizes)} - {1, count}:
        raise MisuseError(
            f"--batch is given {len(batches)} times and --imgsz {len(sizes)} times; wanted once per profile"
        )
    batches, sizes = batches * (count // len(batches)), sizes * (count // len(sizes))
    profiles = tuple(
        ProfileFacts(*((b, *size) for b, size in zip(three, sides, strict=True)))
        for three, sides in zip(batches, sizes, strict=True)
    )
    if len(set(profiles)) < len(profiles):
        raise MisuseError("two profiles are the same; wanted each once")
    return profiles


def fit_fixed(
    profiles: Sequence[ProfileFacts], fixed: Sequence[str], preprocess: Preprocess
) -> tuple[ProfileFacts, ...]:
    """The profiles of a graph of which batch, height or width is fixed: there all three shapes are that."""
    own = (1, preprocess.height, preprocess.width)
    held = [axis in fixed for axis in ("batch", "height", "width")]

    def fit(shape: tuple[int, int, int]) -> tuple[int, int, int]:
        batch, height, width = (
            mine if hold else side for side, mine, hold in zip(shape, own, held, strict=True)
        )
        return batch, height, width

    fitted = (ProfileFacts(fit(one.min), fit(one.opt), fit(one.max)) for one in profiles)
    return tuple(dict.fromkeys(fitted))


def ready_profiles(name: str, preprocess: Preprocess, least_side: int = 1) -> tuple[ProfileFacts, ...]:
    """One of the ready-made sets, for this bundle's patch and input size. Raises MisuseError."""
    if name not in READY:
        raise MisuseError(f"--profile {name!r} is unknown; known: {', '.join(READY)}")
    return tuple(_fit(row, preprocess, least_side) for row in READY[name])


def _fit(row: ReadyProfile, preprocess: Preprocess, least_side: int) -> ProfileFacts:
    """A predefined profile in pixels, extended to include the bundle's own input size."""
    patch, own = preprocess.patch_size, (preprocess.height, preprocess.width)
    unit = min(patch, LARGEST_UNIT)
    usual = own if row.usual is None else (_whole(row.usual * unit, patch),) * 2
    smallest = [max(min(_whole(row.smallest * unit, patch), side), least_side) for side in own]
    largest = [max(_whole(row.largest * unit, patch), side) for side in own]
    low, often, high = row.batch
    return ProfileFacts((low, *smallest), (often, *usual), (high, *largest))  # type: ignore[arg-type]


def _whole(side: int, patch: int) -> int:
    """Pixels, rounded down to whole patches, at least one patch."""
    return max(side // patch, 1) * patch


def parse_batches(text: str) -> tuple[int, int, int]:
    """`8`, or smallest:usual:largest as in `1:8:64`. Raises MisuseError."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[1-9]\d*", part, re.ASCII) for part in parts):
        raise MisuseError(f"--batch {text!r}; wanted N or smallest:usual:largest, for instance 1:8:64")
    low, often, high = (int(parts[0]), int(parts[len(parts) // 2]), int(parts[-1]))
    if not low <= often <= high:
        raise MisuseError(f"--batch {text!r}; wanted smallest <= usual <= largest")
    return low, often, high


def parse_sizes(text: str, patch_size: int) -> tuple[Size, Size, Size]:
    """`256`, `224x384`, or smallest:usual:largest as in `224:512:1024`. Raises MisuseError."""
    parts = [re.fullmatch(r"([1-9]\d*)(?:[x,]([1-9]\d*))?", part, re.ASCII) for part in text.split(":")]
    if len(parts) not in (1, 3) or not all(parts):
        raise MisuseError(
            f"--imgsz {text!r}; wanted H or HxW, or smallest:usual:largest, for instance 224:512:1024"
        )
    sizes = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    for side in (side for size in sizes for side in size):
        if side % patch_size:
            below = side - side % patch_size
            near = f"{below} or {below + patch_size}" if below else f"{patch_size}"
            raise MisuseError(
                f"--imgsz {text!r}: {side} is not a multiple of the patch size {patch_size}; wanted {near}"
            )
    smallest, usual, largest = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    if not all(low <= often <= high for low, often, high in zip(smallest, usual, largest, strict=True)):
        raise MisuseError(f"--imgsz {text!r}; wanted smallest <= usual <= largest for height and width")
    return smallest, usual, largest


def check_judgeable(profiles: Sequence[ProfileFacts], cases: Iterable[GoldenCase]) -> tuple[str, ...]:
    """Notes on the golden cases that no profile accepts, and on the profiles that accept none.

    The engine is judged without those cases, and without the kernels of those profiles.

    Raises MisuseError if no case fits: `embed` would refuse the engine after an hour of building.
    """
    cases = list(cases)
    outside = [case for case in cases if not any(_takes(profile, case) for profile in profiles)]
    shown = [f"{case.name} ({case.size[0]}x{case.size[1]})" for case in outside]
    if len(outside) == len(cases):
        raise MisuseError(
            f"no golden case fits these profiles, so the engine could never be judged: {', '.join(shown)}; "
            "widen --imgsz, or export with the --imgsz you mean to use"
        )
    unjudged = [profile for profile in profiles if not any(_takes(profile, case) for case in cases)]
    return (
        *(f"golden case {name} is outside every profile and will not be judged" for name in shown),
        *(
            f"no golden case fits the profile of {_sides(profile)}, so its kernels will not be judged; "
            "export with that --imgsz to judge them"
            for profile in unjudged
        ),
    )


def _sides(profile: ProfileFacts) -> str:
    """Its heights and widths: `512x512`, or `256x256 to 512x512`."""
    shown = (f"{height}x{width}" for _, height, width in (profile.min, profile.max))
    return " to ".join(dict.fromkeys(shown)) + " px"


def _takes(profile: ProfileFacts, case: GoldenCase) -> bool:
    """Whether height and width fit; the runtime splits or pads a batch of another size."""
    bounds = zip(profile.min[1:], case.size, profile.max[1:], strict=True)
    return all(low <= side <= high for low, side, high in bounds)
