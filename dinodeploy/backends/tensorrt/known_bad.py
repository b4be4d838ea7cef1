"""TensorRT versions that have been seen to put out wrong numbers for ViTs, with the reports.

Building with one is refused unless asked for, and `dinodeploy doctor` names those it finds. The judge has the
last word either way: an engine is used only after it has been compared with the reference on its own device.

Not in the table, because our graphs avoid what set them off: `If` and `Tile` in RoPE (issues 4558, 4603),
and a scale on both q and k (4333, 4328, 4482: wrong even in fp32 on 10.7 and 10.11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dinodeploy.errors import UnavailableError

_ISSUES = "https://github.com/NVIDIA/TensorRT/issues/"


@dataclass(frozen=True)
class KnownBad:
    """One report. Empty tuples and None stand for any."""

    module: str
    version: tuple[int, int]
    what: str
    link: str
    recipes: tuple[str, ...] = ()
    compute_capability: str | None = None
    refit_only: bool = False


KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad(
        "tensorrt",
        (10, 3),
        "fp16 engines of DINOv3 ViT-B give one class everywhere",
        f"{_ISSUES}4723",
        recipes=("fp16",),
    ),
    KnownBad("tensorrt", (10, 3), "transformers with free sizes come out wrong", f"{_ISSUES}4419"),
    KnownBad("tensorrt", (10, 4), "DINOv3 ViT-B has cosine 0.018 in fp32 and NaN in fp16", f"{_ISSUES}4742"),
    KnownBad(
        "tensorrt",
        (10, 16),
        "16-bit fused attention of a ViT comes out wrong on this GPU",
        f"{_ISSUES}4837",
        recipes=("fp16", "bf16"),
        compute_capability="12.0",
    ),
    KnownBad(
        "tensorrt",
        (11, 3),
        "refittable engines can lose a bias; --strip-plan without --refit is not affected",
        "https://docs.nvidia.com/deeplearning/tensorrt/11.3.0/inference-library/refitting-engines.html",
        refit_only=True,
    ),
)


def reports_on(
    module: str, version: tuple[int, ...], recipe: str | None, compute_capability: str | None, refit: bool
) -> Iterator[KnownBad]:
    """The reports that are about such an engine; recipe None stands for any."""
    for row in KNOWN_BAD:
        if (
            (module, version[:2]) == (row.module, row.version)
            and (not row.recipes or recipe is None or recipe in row.recipes)
            and row.compute_capability in (None, compute_capability)
            and (refit or not row.refit_only)
        ):
            yield row


def refuse_known_bad(
    module: str, version: tuple[int, int], recipe: str, compute_capability: str | None, refit: bool
) -> None:
    """Raises UnavailableError, one line with the first report's link, when a report fits this build."""
    for row in reports_on(module, version, recipe, compute_capability, refit):
        shown = ".".join(map(str, version))
        raise UnavailableError(
            f"{module} {shown} is known to be wrong: {row.what} ({row.link}); use another version, or "
            "give --allow-known-bad and let the judge decide"
        )
