"""Find and load the weights that `dinodeploy export --weights` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinodeploy.errors import MisuseError
from dinov3_ref.checkpoints import Checkpoint, fetch, load_checkpoint, random_checkpoint

HUB, RANDOM, FILE = "hub", "random", "file"


def load_source(
    weights: str, arch: str | None, dataset: str | None, seed: int, hub: dict[str, Any], **how: Any
) -> tuple[Checkpoint, str]:
    """The checkpoint, and its origin: file, hub or random.

    hub: options of `fetch`. how: `periods`, `weights_key` and `adapter` of `load_checkpoint`. Raises
    MisuseError for options that do not fit, CheckpointError for files that are no DINOv3 backbone.
    """
    if weights in (HUB, RANDOM) and arch is None:
        raise MisuseError(f"weights {weights!r} need an arch, for instance vit_small")
    if weights in (HUB, RANDOM) and how["weights_key"] is not None:
        raise MisuseError(f"weights_key is for a checkpoint file; weights are {weights!r}")
    if weights == RANDOM and how["adapter"] is not None:
        raise MisuseError("adapter needs the weights it was trained on; weights are 'random'")
    if weights == RANDOM:
        assert arch is not None
        return random_checkpoint(arch, seed), RANDOM
    path = fetch(str(arch), dataset=dataset, **hub) if weights == HUB else Path(weights)
    return load_checkpoint(path, arch=arch, **how), HUB if weights == HUB else FILE
