"""DPT depth heads from tensors: the released depth and canopy-height heads, and transformers' CHMv2.

Widths come from the shapes, what no shape tells from a table or from config.json.
Source: docs/spec.md 5.6; the names of transformers' modules: its `CHMv2ForDepthEstimation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values
from dinov3_ref.errors import CheckpointError, ConfigError
from dinov3_ref.heads.dpt import SCALES, DPTDepth

# by embed_dim: 7B, L
DEPTH_LAYERS = {4096: (9, 19, 29, 39), 1024: (4, 11, 17, 23)}
CANOPY_LAYERS = {1024: (5, 11, 17, 23)}
DEPTH: dict[str, Any] = {"min_depth": 0.001, "max_depth": 100.0}  # SYNTHMIX, metres
CANOPY: dict[str, Any] = {
    "min_depth": 0.001,
    "max_depth": 96.0,
    "bins": "mixlog",
    "norm": "mixlog",
    "readout": "project",
    "project": False,
    "fit": False,
}
_COUNTED = re.compile(r"reassemble_blocks\.batchnorm_layers\.\d\.num_batches_tracked")


def depth_head(tensors: Mapping[str, Tensor], name: str) -> tuple[DPTDepth, str]:
    """The released depth or canopy-height head of these tensors, and a note on what no tensor tells."""
    canopy = "reassemble_blocks.readout_projects.0.0.weight" in tensors
    layers, options = (CANOPY_LAYERS, CANOPY) if canopy else (DEPTH_LAYERS, DEPTH)
    embed_dim = _shape(tensors, "reassemble_blocks.projects.0.conv.weight", name)[1]
    if embed_dim not in layers:
        known = ", ".join(map(str, layers))
        raise CheckpointError(
            f"{name} reads features of {embed_dim} channels; wanted {known}, for which the blocks are known"
        )
    head = build_depth(tensors, name, layers[embed_dim], options)
    ranges = f"{options['min_depth']} to {options['max_depth']:g} m"
    return head, f"depth range {ranges}, as in the released head"


def build_depth(
    tensors: Mapping[str, Tensor], name: str, layers: Sequence[int], options: Mapping[str, Any]
) -> DPTDepth:
    """A head with the widths of the tensors, strictly. Raises CheckpointError or KeyMismatch."""
    widths = [_shape(tensors, f"reassemble_blocks.projects.{i}.conv.weight", name) for i in range(SCALES)]
    bins = _shape(tensors, "conv_depth.head.4.weight", name)
    try:
        head = DPTDepth(
            widths[0][1],
            layers,
            channels=_shape(tensors, "convs.0.conv.weight", name)[0],
            post_process_channels=[width[0] for width in widths],
            n_bins=bins[0],
            n_hidden_channels=bins[1],
            batchnorm="reassemble_blocks.batchnorm_layers.0.weight" in tensors,
            bias="fusion_blocks.1.res_conv_unit1.conv1.conv.bias" in tensors,
            **options,
        )
    except ConfigError as error:
        raise CheckpointError(f"{name} describes no depth head: {error}") from error
    ours = {key: tensor for key, tensor in tensors.items() if not _COUNTED.fullmatch(key)}
    state = head.decoder.state_dict()
    check_keys(ours, {k: tuple(t.shape) for k, t in state.items() if not _COUNTED.fullmatch(k)}, name)
    check_values(ours, name)
    head.decoder.load_state_dict({key: tensor.float() for key, tensor in ours.items()}, strict=False)
    return head


# transformers' names of CHMv2 -> the released ones
_RENAMED: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"head\.reassemble_stage\.layers\.(\d)\.projection\."),
        r"reassemble_blocks.projects.\1.conv.",
    ),
    (re.compile(r"head\.reassemble_stage\.layers\.(\d)\.resize\."), r"reassemble_blocks.resize_layers.\1."),
    (re.compile(r"head\.reassemble_stage\."), "reassemble_blocks."),
    (re.compile(r"head\.convs\.(\d)\."), r"convs.\1.conv."),
    (re.compile(r"head\.fusion_layers\.(\d)\.projection\."), r"fusion_blocks.\1.project.conv."),
    (
        re.compile(r"head\.fusion_layers\.(\d)\.residual_layer(\d)\.convolution(\d)\."),
        r"fusion_blocks.\1.res_conv_unit\2.conv\3.conv.",
    ),
    (re.compile(r"head\.conv_depth\."), "conv_depth."),
)
_FACTORS = [4, 2, 1, 0.5]  # that DPTHead resizes by


def canopy_head(tensors: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> DPTDepth:
    """The head of transformers' `CHMv2ForDepthEstimation` from the tensors beside its backbone.

    config: config.json. Raises CheckpointError for an option that this head does not have, KeyMismatch for
    tensors that do not fit.
    """
    backbone = config.get("backbone_config") or {}
    stages = backbone.get("out_indices") or (6, 12, 18, 24)
    wanted = {"reassemble_factors": _FACTORS, "patch_size": backbone.get("patch_size", 16)}
    told: dict[str, Any] = {**config, "apply_layernorm": backbone.get("apply_layernorm", True)}
    for option, value in {**wanted, "apply_layernorm": True}.items():
        if told.get(option, value) != value:
            raise CheckpointError(f"{name}: config.json says {option} {told[option]!r}; wanted {value!r}")
    options = {
        "min_depth": config.get("min_depth", CANOPY["min_depth"]),
        "max_depth": config.get("max_depth", CANOPY["max_depth"]),
        "bins": str(config.get("bins_strategy", "mixlog")).removeprefix("chmv2_"),
        "norm": str(config.get("norm_strategy", "mixlog")).removeprefix("chmv2_"),
        "readout": config.get("readout_type", "project"),
        "patch_size": wanted["patch_size"],
        "project": False,
        "fit": False,
    }
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        pattern, new = next(((p, n) for p, n in _RENAMED if p.match(key)), (None, ""))
        renamed[pattern.sub(new, key) if pattern else key] = tensor
    # stage 0 is the embedding, so stage i is what block i - 1 gives
    layers = [int(stage) - 1 for stage in stages]
    if min(layers) < 0:
        raise CheckpointError(
            f"{name}: config.json says out_indices {list(stages)}; wanted four blocks, from 1"
        )
    return build_depth(renamed, name, layers, options)


def _shape(tensors: Mapping[str, Tensor], key: str, name: str) -> tuple[int, ...]:
    found = tuple(tensors[key].shape) if key in tensors else ()
    if len(found) != 4:
        got = "is missing" if key not in tensors else f"is {list(found)}"
        raise CheckpointError(f"{name}: {key} {got}; wanted the tensors of a released depth head")
    return found
