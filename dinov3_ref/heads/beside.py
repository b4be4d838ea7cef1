"""The head of a fine-tuned model: what its file holds beside the backbone.

    a linear classifier         {backbone.*, classifier.*} of any layout; timm's `head`, ConvNeXt's `head.fc`
    a fine-tuning of ours       {blocks.*, head.*}, described in config.json
    transformers' CHMv2         canopy height (`dpt_file.py`)

No tensor tells whether a classifier of D features reads CLS or the mean patch. timm's config.json does
(`global_pool`); a file of `DINOClassifier` does by its names. Otherwise the caller has to.
Source: docs/spec.md 5.2, 5.6.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints.checkpoint import Checkpoint
from dinov3_ref.checkpoints.files import json_object
from dinov3_ref.checkpoints.tensor_shapes import check_values
from dinov3_ref.checkpoints.unwrap import CLASSIFIER
from dinov3_ref.errors import CheckpointError, ConfigError
from dinov3_ref.heads.dpt_file import canopy_head
from dinov3_ref.heads.files import METADATA_KEY, UNSTATED, LoadedHead, check_about, described_head
from dinov3_ref.heads.linear import POOLINGS, LinearClassifier
from dinov3_ref.models.config import ConvNeXtConfig

HEAD_PREFIX = "head."  # of the tensors of a head that config.json describes
CANOPY_MODEL = "chmv2"  # model_type of config.json
_TIMM_POOLING = {"token": "cls", "avg": "mean"}  # global_pool of timm's config.json -> ours
_OWN = {"classifier.weight", "classifier.bias"}  # beside the backbone of `DINOClassifier`
_IGNORED = re.compile(r"n_averaged|(?:\w+\.)*(?:criterion|loss|loss_fn)\.\w+")  # of training
_PLACEHOLDER = re.compile(r"LABEL_\d+")  # transformers' names for classes without names


def head_beside(
    checkpoint: Checkpoint, *, pooling: str | None = None, classes: Sequence[str] = ()
) -> LoadedHead | None:
    """The head that a checkpoint holds beside its backbone, or None.

    pooling: what a classifier reads, a key of `POOLINGS`; by default what the file tells. classes: names
    instead of those of config.json. Raises ConfigError where neither tells the pooling, CheckpointError for
    a head whose tensors do not fit.
    """
    if checkpoint.described.get("model_type") == CANOPY_MODEL:
        head = canopy_head(checkpoint.beside, checkpoint.described, checkpoint.source)
        return _loaded(head.eval(), "dpt_depth", checkpoint)
    if METADATA_KEY in checkpoint.described:
        return _described(checkpoint, pooling, classes)
    linear = _linear(checkpoint.beside)
    if linear is None:
        return None
    weight, bias = linear
    D = checkpoint.config.embed_dim
    check_values({"weight": weight, "bias": bias}, checkpoint.source)
    if len(bias) != len(weight) or weight.shape[1] not in (D, 2 * D):
        raise CheckpointError(
            f"{checkpoint.source} holds a classifier of {list(weight.shape)} with a bias of {len(bias)}; "
            f"wanted {D} features (CLS or mean patch) or {2 * D} (both); export the backbone alone with "
            "--head none"
        )
    chosen = _pooling(checkpoint, weight.shape[1] == 2 * D, pooling)
    names, notes = (tuple(classes), ()) if classes else _class_names(checkpoint.described, len(weight))
    classifier = LinearClassifier(D, len(weight), chosen, names)  # type: ignore[arg-type]
    classifier.linear.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    reads = {"cls": "CLS", "mean": "the mean patch", "cls_mean": "CLS and the mean patch"}[chosen]
    note = f"the classifier of {len(weight)} classes came along; it reads {reads}"
    return _loaded(classifier.eval(), "linear_classifier", checkpoint, note, *notes)


def _described(checkpoint: Checkpoint, pooling: str | None, classes: Sequence[str]) -> LoadedHead:
    """The head that a fine-tuning of ours wrote beside its backbone (`adapt/result.py`)."""
    about = check_about(checkpoint.described[METADATA_KEY], f"{checkpoint.source}: config.json")
    if pooling is not None:
        raise ConfigError(f"{checkpoint.source} says what its head reads; leave --pooling out")
    tensors = {
        name.removeprefix(HEAD_PREFIX): tensor
        for name, tensor in checkpoint.beside.items()
        if name.startswith(HEAD_PREFIX)
    }
    loaded = described_head(about, tensors, Path(checkpoint.source).name, checkpoint.sha256)
    loaded.head.classes = tuple(classes) or loaded.head.classes
    return loaded


def _loaded(head: Any, kind: str, checkpoint: Checkpoint, *notes: str) -> LoadedHead:
    licence = checkpoint.licence or UNSTATED
    return LoadedHead(
        head, kind, Path(checkpoint.source).name, checkpoint.sha256, licence=licence, notes=notes
    )


def _linear(beside: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Weight [K,F] and bias [K] of a linear classifier, if there is nothing else."""
    tensors = {key: tensor for key, tensor in beside.items() if not _IGNORED.fullmatch(key)}
    stems = Counter(key.rpartition(".")[0] for key in tensors)
    if len(stems) != 1 or not all(map(CLASSIFIER.fullmatch, tensors)):
        return None
    ends = {key.rpartition(".")[2]: tensor for key, tensor in tensors.items()}
    weight = ends.get("weight")
    if weight is None or weight.dim() != 2:
        return None
    return weight, ends.get("bias", torch.zeros(len(weight)))


def _pooling(checkpoint: Checkpoint, both: bool, asked: str | None) -> str:
    """What the classifier reads. Raises ConfigError if nothing tells it or `asked` cannot be."""
    if asked is not None and asked not in POOLINGS:
        raise ConfigError(f"pooling {asked!r} is unknown; wanted one of {', '.join(POOLINGS)}")
    if asked is not None and both != (asked == "cls_mean"):
        width = "2" if both else "1"
        raise ConfigError(
            f"pooling {asked!r} does not fit: the classifier of {checkpoint.source} reads {width} x "
            f"embed_dim features; wanted {'cls_mean' if both else 'cls or mean'}"
        )
    if asked is not None or both:
        return asked or "cls_mean"
    if isinstance(checkpoint.config, ConvNeXtConfig):
        return "cls"  # the normed mean of the last map is its only image feature
    arguments = json_object(checkpoint.described, "model_args")
    told = arguments.get("global_pool", checkpoint.described.get("global_pool"))
    if told in _TIMM_POOLING:
        return _TIMM_POOLING[told]
    if checkpoint.layout == "official" and set(checkpoint.beside) == _OWN and told is None:
        return "cls"
    raise ConfigError(
        f"{checkpoint.source} holds a classifier of {checkpoint.config.embed_dim} features, and nothing "
        "tells whether it reads CLS or the mean patch: give --pooling cls or --pooling mean; or --head none "
        "for the backbone alone"
    )


def _class_names(config: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names by index from config.json (`id2label`, timm's `label_names`), and notes; empty without any."""
    by_index = json_object(config, "id2label")
    listed = json_object(config, "pretrained_cfg").get("label_names", config.get("label_names"))
    if by_index:
        listed = [by_index.get(str(index)) for index in range(count)] if len(by_index) == count else by_index
    if not listed or all(isinstance(name, str) and _PLACEHOLDER.fullmatch(name) for name in listed):
        return (), ()
    if len(listed) != count or not all(isinstance(name, str) and name for name in listed):
        return (), (f"config.json names {len(listed)} classes, the classifier has {count}: no names taken",)
    times = Counter(listed)
    return tuple(f"{name} ({index})" if times[name] > 1 else name for index, name in enumerate(listed)), ()
