"""Released heads: which are supported, and how to load them (docs/spec.md 1.5, 5.2, 5.6).

    dinov3_vit7b16_lc   weight [1000,2D], bias [1000]              -> LinearClassifier, [cls ; mean patch]
    dinov3_vit7b16_dd   reassemble_blocks.*, …, conv_depth.head.*  -> DPTDepth, 256 bins of 0.001 to 100 m
    evaluations         batchnorm_layer.*, conv.* or conv_depth.*  -> LinearSegmenter or LinearDepth
    dinov3_vitl16_chmv2 the same, with readout_projects.*          -> DPTDepth, CLS read-out, 0.001 to 96 m

A fine-tuned model, {backbone.*, linear_head.*}, gives its classifier where that reads [cls ; mean patch]. The
others are refused by name: the detector and Mask2Former need their own adapters, dino.txt its vocabulary
(`dinov3_ref/text`).

Source of the depth head's tensor names: the CHMv2 converter of transformers, which has the same modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values
from dinov3_ref.checkpoints.unwrap import Unwrapped, unwrap
from dinov3_ref.errors import CheckpointError, ForeignCheckpoint
from dinov3_ref.heads.dense_file import dense_head, dense_tensors
from dinov3_ref.heads.dpt_file import depth_head
from dinov3_ref.heads.head import Head
from dinov3_ref.heads.linear import LinearClassifier

OFFICIAL_LICENCE = "Meta's DINOv3 License: https://ai.meta.com/resources/models-and-libraries/dinov3-license/"

_CLASSIFIER = re.compile(r"(?:\w+\.)*?(?:head|linear_head|classifier|fc|linear)\.weight")

# (part of a key, what the file is)
_FOREIGN: tuple[tuple[str, str], ...] = (
    ("class_embed", "a detection or Mask2Former head, which needs its own adapter"),
    ("sampling_offsets", "a detection or Mask2Former head, which needs its own adapter"),
    ("visual_model.", "dino.txt's vision head and text encoder, which needs --vocab"),
    ("cls_token", "a backbone; give it as --weights"),
    ("patch_embed", "a backbone; give it as --weights"),
)


def official_head(tree: Mapping[str, Any], name: str) -> tuple[Head, str, tuple[str, ...]]:
    """(head, kind, notes) from the tensors of a released file.

    Raises ForeignCheckpoint for another model, CheckpointError or KeyMismatch for a broken head.
    """
    if (dense := dense_tensors(tree)) is not None:
        head, kind, note = dense_head(dense, name)
        return head, kind, (note,)
    if tree and (tuned := unwrap(tree, name)).rest:
        return _fine_tuned(tuned, name), "linear_classifier", ("read the classifier beside the backbone",)
    tensors = {str(key): value for key, value in tree.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(tree):
        raise CheckpointError(
            f"{name} is not a head: wanted a flat state dict, or a file that save_head wrote"
        )
    for part, what in _FOREIGN:
        if any(part in key for key in tensors):
            raise ForeignCheckpoint(
                f"{name} is {what}; wanted a linear classifier, a DPT depth head or a canopy-height head"
            )
    if set(tensors) == {"weight", "bias"}:
        return _classifier(tensors, name), "linear_classifier", ()
    if any(key.startswith("reassemble_blocks.") for key in tensors):
        depth, note = depth_head(tensors, name)
        return depth, "dpt_depth", (note,)
    sample = ", ".join(sorted(tensors)[:3])
    raise ForeignCheckpoint(
        f"{name} is not a known head: {len(tensors)} tensors, such as {sample}; wanted weight and bias "
        "(_lc), reassemble_blocks.* (_dd, _chmv2), or a file that save_head or train-head wrote"
    )


def _classifier(tensors: Mapping[str, Tensor], name: str) -> LinearClassifier:
    weight = tensors["weight"]
    if weight.dim() != 2 or weight.shape[1] % 2:
        raise CheckpointError(
            f"{name}: weight is {list(weight.shape)}; wanted [K, 2 embed_dim]: CLS and mean patch"
        )
    classes, width = weight.shape
    check_keys(tensors, {"weight": (classes, width), "bias": (classes,)}, name)
    check_values(tensors, name)
    head = LinearClassifier(width // 2, classes, "cls_mean")
    head.linear.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return head


def _fine_tuned(file: Unwrapped, name: str) -> LinearClassifier:
    """The classifier of a file that also holds its backbone. Raises CheckpointError if it is not clear."""
    pairs = {key.removesuffix("weight") for key in file.rest if _CLASSIFIER.fullmatch(key)}
    widths = [tensor.shape[-1] for key, tensor in file.backbone.items() if key.endswith("cls_token")]
    if (
        not widths
        or len(pairs) != 1
        or len(file.rest) != 2
        or f"{(stem := pairs.pop())}bias" not in file.rest
    ):
        raise CheckpointError(
            f"{name} holds {len(file.rest)} tensors beside its backbone, such as {next(iter(file.rest))}; "
            "wanted a ViT, and the weight and bias of one linear classifier"
        )
    linear = {end: file.rest[f"{stem}{end}"] for end in ("weight", "bias")}
    if linear["weight"].shape[-1] == widths[0]:
        raise CheckpointError(
            f"{name}: {stem}weight reads {widths[0]} features, CLS or the mean patch token, and the file "
            "does not say which; make a dinov3_ref.heads.LinearClassifier of it; give what save_head writes"
        )
    return _classifier(linear, name)
