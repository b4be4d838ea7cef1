"""TensorRT versions that have been seen to put out wrong numbers for ViTs, with the reports.

Building with one is refused unless asked for, and `dinodeploy doctor` names those it finds. The judge has the
last word either way: an engine is used only after it has been compared with the reference on its own device.

Not in the table, because our graphs avoid what set them off:

- `If` and `Tile` in RoPE (issues 4558, 4603), and a scale on both q and k (4333, 4328, 4482: wrong even in
  fp32 on 10.7 and 10.11);
- a residual stream in fp16 (4723: DINOv3 ViT-B built with `--fp16` on 10.3 gives one class everywhere);
- several products of one LayerNorm output, which at batch 1 are fused with a corrupted V (TensorRT-Edge-LLM
  issues 105 and 151, 10.13 on Thor). Graphs exported before one product made q, k and v have that pattern:
  export again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.errors import UnavailableError

_ISSUES = "https://github.com/NVIDIA/TensorRT/issues/"


@dataclass(frozen=True)
class KnownBad:
    """One report. Empty tuples and None stand for any."""

    module: str
    versions: tuple[tuple[int, int], tuple[int, int]]  # first and last
    what: str
    link: str
    recipes: tuple[str, ...] = ()
    compute_capability: str | None = None
    refit_only: bool = False
    free_sizes_only: bool = False  # not with one batch size and one image size


SIXTEEN_BIT_ATTENTION = ("fp16", "bf16", "bf16-residual", "int8", "fp8")

KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad(
        "tensorrt",
        ((10, 3), (10, 3)),
        "transformers with free sizes come out wrong, also in issue 4330",
        f"{_ISSUES}4419",
        free_sizes_only=True,
    ),
    KnownBad(
        "tensorrt",
        ((10, 4), (10, 4)),
        "DINOv3 ViT-B has cosine 0.018 in fp32 and NaN in fp16",
        f"{_ISSUES}4742",
    ),
    KnownBad(  # 10.8 is the first for this GPU; the report says that 10.16.1 still has it
        "tensorrt",
        ((10, 8), (10, 16)),
        "16-bit fused attention of a ViT comes out wrong on this GPU",
        f"{_ISSUES}4837",
        recipes=SIXTEEN_BIT_ATTENTION,
        compute_capability="12.0",
    ),
    KnownBad(
        "tensorrt",
        ((11, 1), (11, 1)),
        "a strongly typed fp32 detector comes out wrong on this GPU",
        f"{_ISSUES}4813",
        recipes=("fp32",),
        compute_capability="12.0",
    ),
    KnownBad(
        "tensorrt",
        ((11, 3), (11, 3)),
        "refittable engines can lose a bias; --strip-plan without --refit is not affected",
        "https://docs.nvidia.com/deeplearning/tensorrt/11.3.0/inference-library/refitting-engines.html",
        refit_only=True,
    ),
)


def reports_on(
    module: str,
    version: tuple[int, ...],
    recipe: str | None,
    compute_capability: str | None,
    *,
    refit: bool,
    free_sizes: bool,
) -> Iterator[KnownBad]:
    """The reports that are about such an engine; recipe None stands for any."""
    for row in KNOWN_BAD:
        first, last = row.versions
        if (
            module == row.module
            and first <= version[:2] <= last
            and (not row.recipes or recipe is None or recipe in row.recipes)
            and row.compute_capability in (None, compute_capability)
            and (refit or not row.refit_only)
            and (free_sizes or not row.free_sizes_only)
        ):
            yield row


def has_free_sizes(profiles: Sequence[ProfileFacts]) -> bool:
    """Whether an engine takes more than one batch size and one image size in some profile."""
    return any(not profile.min == profile.opt == profile.max for profile in profiles)


def refuse_known_bad(
    module: str,
    version: tuple[int, int],
    recipe: str,
    compute_capability: str | None,
    *,
    refit: bool,
    free_sizes: bool,
) -> None:
    """Raises UnavailableError, one line with the first report's link, when a report fits this build."""
    for row in reports_on(module, version, recipe, compute_capability, refit=refit, free_sizes=free_sizes):
        shown = ".".join(map(str, version))
        other = ", or one --batch and one --imgsz" if row.free_sizes_only else ""
        raise UnavailableError(
            f"{module} {shown} is known to be wrong: {row.what} ({row.link}); use another version{other}, or "
            "give --allow-known-bad and let the judge decide"
        )
