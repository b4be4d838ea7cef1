"""The checkpoint of a bundle, so that all peers run the same weights."""

from __future__ import annotations

from dinodeploy.bundle.manifest import ModelFacts
from dinodeploy.errors import MisuseError
from dinov3_ref.checkpoints import Checkpoint, fetch, load_checkpoint, random_checkpoint

RANDOM = "random:"


def checkpoint_of(model: ModelFacts, given: str | None) -> Checkpoint:
    """Load `given`, or what the manifest names: random weights are drawn again, hub weights fetched.

    Raises MisuseError for a checkpoint that is not the bundle's, or one that only the user can give.
    """
    checkpoint = _load(model, given)
    if checkpoint.sha256 != model.sha256:
        raise MisuseError(
            f"{checkpoint.source} is not the checkpoint of the bundle: sha256 {checkpoint.sha256[:12]}…, the "
            f"manifest has {model.sha256[:12]}… ({model.source}); give that one with --checkpoint"
        )
    return checkpoint


def _load(model: ModelFacts, given: str | None) -> Checkpoint:
    periods = model.rope_periods or "bf16"  # a ConvNeXt has no RoPE
    if given is not None:
        return load_checkpoint(given, arch=None if model.arch == "custom" else model.arch, periods=periods)
    if model.weights == "random" and model.arch != "custom":
        return random_checkpoint(model.arch, _seed(model.source))
    if model.weights == "hub":
        fetched = fetch(model.arch, dataset=model.dataset, revision=model.source.rpartition("@")[2])
        return load_checkpoint(fetched, arch=model.arch, periods=periods)
    raise MisuseError(
        f"peers in torch need the checkpoint of the bundle ({model.source}); give it with --checkpoint FILE"
    )


def _seed(source: str) -> int:
    """`random:vit_small:seed3` -> 3."""
    return int(source.rpartition("seed")[2])
