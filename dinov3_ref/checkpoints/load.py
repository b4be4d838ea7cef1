"""Load a DINOv3 checkpoint in any layout, strictly, with official key names (docs/spec.md 3).

read file → unwrap → detect layout → infer configuration → check every tensor → rename → fill in what the
layout dropped. Each step has its own module; this one calls them in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints.adapters.merge import merge_adapter
from dinov3_ref.checkpoints.adapters.read import read_adapter
from dinov3_ref.checkpoints.architecture import (
    check_architecture,
    infer_config,
    infer_dataset,
    name_architecture,
    sidecar_licence,
    sidecar_normalization,
)
from dinov3_ref.checkpoints.checkpoint import Checkpoint, LazyTensors
from dinov3_ref.checkpoints.files import CONFIG, MODEL_CONFIG, RawCheckpoint, json_object, read_checkpoint
from dinov3_ref.checkpoints.hub import Fetched
from dinov3_ref.checkpoints.layouts.convnext import ConvNeXtLayout, check_repeated_norm, infer_convnext
from dinov3_ref.checkpoints.layouts.detect import detect_layout
from dinov3_ref.checkpoints.layouts.hf import NORM_BY_EPS
from dinov3_ref.checkpoints.layouts.official import PERIODS, PeriodRounding, key_mask, rope_periods
from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values, expected_shapes
from dinov3_ref.checkpoints.unwrap import CLASSIFIER, unwrap
from dinov3_ref.models.backbone import Backbone
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig
from dinov3_ref.models.convnext import ConvNeXt
from dinov3_ref.models.released import RELEASED, find_released
from dinov3_ref.models.vision_transformer import DinoVisionTransformer


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    periods: PeriodRounding | None = None,
    weights_key: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Load `path`: a file, a directory, or the result of `fetch`.

    `arch` is checked against the file: a key of ARCHITECTURES, or a torch.hub, Hugging Face or timm name.
    `periods` is the rounding of RoPE periods if the file has none: "bf16" gives official features, "fp32"
    those of Hugging Face and timm, the default for a model that was fine-tuned there. `weights_key`
    chooses one of several models in the file by its dotted name, such as "state_dict"; by default moving
    averages are preferred (`unwrap.py`). `adapter` is the folder of a PEFT adapter to merge. Raises
    `CheckpointError` or a subclass.
    """
    fetched = path if isinstance(path, Fetched) else None
    raw = read_checkpoint(Path(path))
    name = fetched.source if fetched else str(raw.path)
    how: dict[str, Any] = {"arch": arch, "periods": periods, "weights_key": weights_key}
    found = checkpoint_of(raw, name, tuned=adapter is not None, **how)
    loaded = replace(found, notes=(*(fetched.notes if fetched else ()), *found.notes))
    return loaded if adapter is None else merge_adapter(loaded, read_adapter(Path(adapter)))


def checkpoint_of(
    raw: RawCheckpoint,
    name: str,
    *,
    arch: str | None = None,
    periods: PeriodRounding | None = None,
    weights_key: str | None = None,
    hints: Mapping[str, Any] | None = None,
    tuned: bool = False,
) -> Checkpoint:
    """The checkpoint in content that has been read; `name` is for messages. Options as `load_checkpoint`.

    hints: fields of `ViTConfig` that the caller knows and tensors do not show. tuned: whether an adapter of
    the model follows.
    """
    found_in_file = unwrap(raw.tree, name, weights_key)
    layout = detect_layout(found_in_file.backbone.keys(), name)
    tensors = layout.modernise(found_in_file.backbone)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    told = {**layout.hints(_of_backbone(raw.sidecars)), **(hints or {})}
    where = f"{name} ({layout.name} layout)"
    in_file: ModelConfig
    found: Mapping[str, Tensor]
    if isinstance(layout, ConvNeXtLayout):
        in_file = convnext = infer_convnext(layout, shapes, told, name)
        check_keys(tensors, layout.shapes(convnext, tensors.keys()), where)
        check_repeated_norm(tensors, name)
        found = layout.to_official(tensors, convnext)
    else:
        in_file = vit = infer_config(layout, shapes, told, name)
        check_keys(tensors, layout.shapes(vit, tensors.keys()), where)
        found = layout.to_official(tensors, vit)
    check_values(tensors, name)

    checkpoint = identify(raw, layout.name, in_file, name)
    if arch is not None:
        check_architecture(arch, checkpoint.arch, checkpoint.dataset, checkpoint.config, name)
    exact = (tuned or _is_tuned(raw, found_in_file.rest)) and layout.name in ("hf", "timm")
    periods = periods or ("fp32" if exact and isinstance(in_file, ViTConfig) else "bf16")
    state, filled = complete(found, checkpoint.config, periods)
    guessed = _guesses(raw, checkpoint)
    every_note = (
        *found_in_file.notes,
        *checkpoint.notes,
        *guessed,
        *filled,
        *_precision_notes(state),
    )
    return replace(
        checkpoint,
        state=state,
        notes=every_note,
        beside=found_in_file.rest,
        described=raw.sidecars.get(CONFIG, {}),
        periods=periods,
    )


def _of_backbone(sidecars: Mapping[str, dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    """The JSON files with the backbone's own configuration, if config.json has one inside."""
    inside = json_object(sidecars.get(CONFIG, {}), "backbone_config")
    return {**sidecars, CONFIG: inside} if inside else sidecars


def _is_tuned(raw: RawCheckpoint, beside: Mapping[str, Tensor]) -> bool:
    """Whether a library's model was trained with a head on its own backbone."""
    whole = bool(raw.sidecars.get(CONFIG, {}).get("backbone_config"))
    return whole or any(map(CLASSIFIER.fullmatch, beside))


def build_model(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Backbone:
    """The model in eval mode. It uses the checkpoint's own tensors, without a copy, if `dtype` is theirs.

    RoPE periods stay fp32 for any `dtype`: they are rounded when the checkpoint is loaded.
    """
    config = checkpoint.config
    kind = ConvNeXt if isinstance(config, ConvNeXtConfig) else DinoVisionTransformer
    with torch.device("meta"):
        model: Backbone = kind(**config.kwargs())
    state = {key: tensor if key == PERIODS else tensor.to(dtype) for key, tensor in checkpoint.state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def identify(raw: RawCheckpoint, layout: str, in_file: ModelConfig, name: str) -> Checkpoint:
    """The checkpoint without its tensors.

    If the layout drops tensors, the released model decides about `local_cls_norm`.
    """
    official = layout == "official"
    arch, config = name_architecture(in_file, biases_may_lack=not official)
    normalization = sidecar_normalization(raw.sidecars)
    untied = None
    if official and isinstance(in_file, ViTConfig):
        untied = in_file.untie_global_and_local_cls_norm
    dataset, note = infer_dataset(name, raw.sha256, normalization, arch, untied)
    released = find_released(arch, dataset)
    if not official and released is not None and isinstance(config, ViTConfig):
        assert isinstance(released.config, ViTConfig)
        untie = released.config.untie_global_and_local_cls_norm
        config = replace(config, untie_global_and_local_cls_norm=untie)
    mean, std = normalization or (None, None)
    return Checkpoint(
        config=config,
        arch=arch,
        state={},
        layout=layout,
        dataset=dataset,
        source=name,
        sha256=raw.sha256,
        mean=mean,
        std=std,
        licence=sidecar_licence(raw.sidecars),
        notes=(note,) if note else (),
    )


# End of an official key that a layout may drop -> note on the value that replaces it.
DEFAULTS: dict[str, str] = {
    "mask_token": "mask_token: absent, set to zeros (inference never uses it)",
    "local_cls_norm.weight": "local_cls_norm: absent, set to the identity (only training uses it)",
    "local_cls_norm.bias": "local_cls_norm: absent, set to the identity (only training uses it)",
    "qkv.bias": "qkv biases: absent, set to zeros",
    "qkv.bias_mask": "qkv bias masks: absent, set to mask k only",
    PERIODS: "RoPE periods: absent, computed from base {base:g} and {rounding}",
}
ROUNDING_WORDS = {
    "bf16": "rounded to bfloat16 as official files are",
    "fp32": "kept exact as Hugging Face and timm do",
}


def complete(
    found: Mapping[str, Tensor], config: ModelConfig, periods: PeriodRounding
) -> tuple[LazyTensors, list[str]]:
    """`found` completed to every tensor of `config`, in order, and a note on each kind of added tensor."""
    state: dict[str, Tensor | Callable[[], Tensor]] = {}
    notes: dict[str, None] = {}  # an ordered set
    for key, shape in expected_shapes(config).items():
        if key in found:
            state[key] = found[key].to(torch.float32) if key == PERIODS else partial(found.__getitem__, key)
            continue
        assert isinstance(config, ViTConfig)  # a ConvNeXt's layouts drop nothing
        suffix = next(end for end in DEFAULTS if key.endswith(end))
        if suffix == PERIODS:
            state[key] = rope_periods(config, periods)
        elif suffix == "qkv.bias_mask":
            state[key] = key_mask(config.embed_dim)
        else:
            state[key] = torch.full(shape, float(suffix == "local_cls_norm.weight"))
        base = config.pos_embed_rope_base or 0.0
        notes[DEFAULTS[suffix].format(base=base, rounding=ROUNDING_WORDS[periods])] = None
    return LazyTensors(state), list(notes)


def _guesses(raw: RawCheckpoint, checkpoint: Checkpoint) -> list[str]:
    """A note on what tensors do not show, unless a config.json or the hash of a released file tells it."""
    config = checkpoint.config
    described = raw.sidecars.get(CONFIG, {})
    released = any(checkpoint.sha256.startswith(row.hash_prefix) for row in RELEASED)
    told = MODEL_CONFIG in described if checkpoint.layout == "official" else bool(described)
    if told or released or not isinstance(config, ViTConfig) or checkpoint.layout == "timm":
        return []
    eps = {norm: f"{eps:g}" for eps, norm in NORM_BY_EPS.items()}.get(config.norm_layer)
    untold, taken = ("LayerNorm's eps and ", f"{eps} and ") if eps else ("", "")  # RMSNorm has one eps
    return [
        f"no config.json tells {untold}how RoPE normalises coordinates: took {taken}"
        f"{config.pos_embed_rope_normalize_coords!r}, as in released models"
    ]


def _precision_notes(state: Mapping[str, Tensor]) -> list[str]:
    types = {str(t.dtype).removeprefix("torch.") for key, t in state.items() if key != PERIODS} - {"float32"}
    return [f"weights are stored as {kind}; build_model converts them to float32" for kind in sorted(types)]
