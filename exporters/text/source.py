"""Find and load the files of a dino.txt model that `dinodeploy export --vocab` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinodeploy.errors import MisuseError
from dinov3_ref.checkpoints import Checkpoint, fetch
from dinov3_ref.text import load_dinotxt, random_dinotxt
from exporters.text.graph import TextPart, prepare_text

HUB, RANDOM, FILE = "hub", "random", "file"


def load_source(
    weights: str,
    arch: str | None,
    dataset: str | None,
    seed: int,
    hub: dict[str, Any],
    *,
    head: str | None,
    vocab: Path,
    weights_key: str | None = None,
    **how: Any,
) -> tuple[Checkpoint, str, TextPart]:
    """The backbone's checkpoint, its origin (file, hub, random), and what comes after the backbone.

    hub: options of `fetch`. how: `periods` and `adapter` of `load_dinotxt`. Raises MisuseError for options
    that do not fit, CheckpointError or a subclass for files that are not such a model.
    """
    if weights_key is not None:
        raise MisuseError("--weights-key is for files with several backbones; leave it out with --vocab")
    if weights == RANDOM:
        if arch is None or head is not None or how.get("adapter") is not None:
            raise MisuseError("--weights random with --vocab needs --arch, and no --head and no --adapter")
        loaded = random_dinotxt(arch, None, seed)
        return loaded.backbone, RANDOM, prepare_text(loaded, vocab)
    if weights == HUB and (arch is None or head is None):
        raise MisuseError("--weights hub with --vocab needs --arch, and --head: vision head and text encoder")
    path = fetch(arch, dataset=dataset, **hub) if weights == HUB and arch is not None else Path(weights)
    loaded = load_dinotxt(path, None if head is None else Path(head), arch=arch, **how)
    return loaded.backbone, HUB if weights == HUB else FILE, prepare_text(loaded, vocab)
