"""Parse `--head`: a head file, or `pyramid`, which has no weights."""

from __future__ import annotations

from pathlib import Path

from dinodeploy.errors import MisuseError
from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import FeaturePyramid, LoadedHead, load_head

PYRAMID = "pyramid"
EVEN_24 = (4, 11, 17, 23)  # the blocks that the official code uses (docs/spec.md 5.4)


def find_head(text: str, embed_dim: int, depth: int, patch_size: int) -> LoadedHead:
    """`FILE`, `pyramid` or `pyramid:3,5,7,11`.

    Raises MisuseError, or CheckpointError for a file that is not a head.
    """
    word, _, layers = text.partition(":")
    if word != PYRAMID or Path(text).exists():
        return load_head(Path(text))
    if layers and not all(part.strip().isdecimal() for part in layers.split(",")):
        raise MisuseError(f"--head {text!r}; wanted four block numbers, for instance {PYRAMID}:3,5,7,11")
    chosen = tuple(int(part) for part in layers.split(",")) if layers else four_even(depth)
    try:
        return LoadedHead(FeaturePyramid(embed_dim, chosen, patch_size), "feature_pyramid", "no weights")
    except ConfigError as error:
        raise MisuseError(f"--head {text!r}: {error}") from error


def four_even(depth: int) -> tuple[int, ...]:
    """The last block of each quarter of the model. Raises MisuseError for fewer than four.

    Source: docs/spec.md 5.4.
    """
    if depth < 4:
        raise MisuseError(
            f"a pyramid takes four blocks, this model has {depth}; name them: {PYRAMID}:0,1,2,…"
        )
    return EVEN_24 if depth == 24 else tuple(i * (depth // 4) - 1 for i in range(1, 5))
