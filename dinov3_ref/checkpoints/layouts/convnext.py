"""The three layouts of DINOv3 ConvNeXts: key names, and the configuration inferred from shapes.

Source: docs/spec.md 3.2-3.5.

All three store the same tensors under different names, except for `norms.3`, the official copy of `norm`: it
is compared with `norm` if a file has it, and dropped in the other layouts.

Symbols: C channels of a stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints.files import MODEL_CONFIG, json_object
from dinov3_ref.errors import ArchMismatch, CheckpointError, ConfigError, ForeignCheckpoint, KeyMismatch
from dinov3_ref.models.config import DOWNSAMPLING, STAGES, STEM_STRIDE, ConvNeXtConfig

Shape = tuple[int, ...]
KERNEL = 7  # of the depthwise convolution
EXPANSION = 4  # of the pointwise layers
# one module with two names in official files
TWICE = {"norms.3.weight": "norm.weight", "norms.3.bias": "norm.bias"}
HF_MODEL_TYPE, HF_EPS, HF_ACTIVATION = "dinov3_convnext", 1e-6, "gelu"


def convnext_shapes(config: ConvNeXtConfig) -> dict[str, Shape]:
    """Official key -> shape of every tensor of the model."""
    shapes: dict[str, Shape] = {}
    before = config.in_chans
    for stage, (depth, C) in enumerate(zip(config.depths, config.dims, strict=True)):
        conv, norm, width = (0, 1, C) if stage == 0 else (1, 0, before)
        size = STEM_STRIDE if stage == 0 else DOWNSAMPLING
        shapes[f"downsample_layers.{stage}.{conv}.weight"] = (C, before, size, size)
        shapes[f"downsample_layers.{stage}.{conv}.bias"] = (C,)
        shapes.update((f"downsample_layers.{stage}.{norm}.{end}", (width,)) for end in ("weight", "bias"))
        for index in range(depth):
            shapes.update(
                (f"stages.{stage}.{index}.{name}", shape) for name, shape in _block_shapes(C, config)
            )
        before = C
    for key in (*TWICE.values(), *TWICE):
        shapes[key] = (config.embed_dim,)
    return shapes


def _block_shapes(C: int, config: ConvNeXtConfig) -> Iterator[tuple[str, Shape]]:
    if config.layer_scale_init_value > 0:
        yield "gamma", (C,)
    weights: tuple[tuple[str, Shape], ...] = (
        ("dwconv", (C, 1, KERNEL, KERNEL)),
        ("norm", (C,)),
        ("pwconv1", (EXPANSION * C, C)),
        ("pwconv2", (C, EXPANSION * C)),
    )
    for name, shape in weights:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]


@dataclass(frozen=True)
class ConvNeXtLayout:
    """One way to name the tensors of a ConvNeXt: patterns on official keys; the first match counts."""

    name: str  # official | hf | timm
    mark: str  # a key that only this layout has
    renamings: tuple[tuple[str, str], ...]
    hints: Callable[[Mapping[str, Mapping[str, Any]]], dict[str, Any]] = lambda sidecars: {}
    older: tuple[tuple[str, str], ...] = ()  # names in older files and in memory -> names on the hub

    def recognises(self, keys: Collection[str]) -> bool:
        return any(self.modern(key) == self.mark for key in keys)

    def modernise(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.modern(key): tensor for key, tensor in tensors.items()}

    def modern(self, key: str) -> str:
        """The current name of a tensor that has an older one."""
        for pattern, replacement in self.older:
            key = re.sub(pattern, replacement, key)
        return key

    def places(self, official_key: str) -> dict[str, int | None]:
        """This layout's name of an official tensor -> None: it is the whole tensor."""
        return {} if official_key in TWICE else {self.spell(official_key): None}

    def spell(self, official_key: str) -> str:
        for pattern, replacement in self.renamings:
            if re.match(pattern, official_key):
                return re.sub(pattern, replacement, official_key)
        return official_key

    def shapes(self, config: ConvNeXtConfig, keys: Collection[str] = ()) -> dict[str, Shape]:
        """This layout's key -> shape of every tensor; the repeated norm only if it is in `keys`."""
        return {
            self.spell(key): shape
            for key, shape in convnext_shapes(config).items()
            if key not in TWICE or (self.name == "official" and key in keys)
        }

    def to_official(self, tensors: Mapping[str, Tensor], config: ConvNeXtConfig) -> dict[str, Tensor]:
        """All official tensors; the repeated norm is the same tensor under two keys."""
        return {key: tensors[self.spell(TWICE.get(key, key))] for key in convnext_shapes(config)}

    def from_official(self, state: Mapping[str, Tensor], config: ConvNeXtConfig) -> dict[str, Tensor]:
        return {
            self.spell(key): tensor
            for key, tensor in state.items()
            if self.name == "official" or key not in TWICE
        }


def _hf_hints(sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Shapes from config.json, to compare with the tensors. Raises for another kind of model."""
    config = sidecars.get("config.json", {})
    wanted = {"model_type": HF_MODEL_TYPE, "layer_norm_eps": HF_EPS, "hidden_act": HF_ACTIVATION}
    for field, value in wanted.items():
        found = config.get(field, value)
        if found != value:
            kind = ForeignCheckpoint if field == "model_type" else CheckpointError
            raise kind(f"config.json says {field} {found!r}; wanted {value!r} for a DINOv3 ConvNeXt")
    return {field: config[name] for field, name in HF_SHAPE.items() if isinstance(config.get(name), list)}


def _official_hints(sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The model configuration that a training run wrote, if it is there."""
    described = json_object(sidecars.get("config.json", {}), MODEL_CONFIG)
    return {MODEL_CONFIG: described} if described else {}


HF_SHAPE = {"depths": "depths", "dims": "hidden_sizes"}  # our field -> that of config.json

CONVNEXT_LAYOUTS: tuple[ConvNeXtLayout, ...] = (
    ConvNeXtLayout(
        "hf",
        "stages.0.downsample_layers.0.weight",
        (
            (r"downsample_layers\.(\d+)\.(\d+)\.", r"stages.\1.downsample_layers.\2."),
            (r"stages\.(\d+)\.(\d+)\.dwconv\.", r"stages.\1.layers.\2.depthwise_conv."),
            (r"stages\.(\d+)\.(\d+)\.norm\.", r"stages.\1.layers.\2.layer_norm."),
            (r"stages\.(\d+)\.(\d+)\.pwconv(\d)\.", r"stages.\1.layers.\2.pointwise_conv\3."),
            (r"stages\.(\d+)\.(\d+)\.gamma", r"stages.\1.layers.\2.gamma"),
            (r"norm\.", "layer_norm."),
        ),
        _hf_hints,
        older=((r"^(?:model|encoder)\.stages\.", "stages."),),
    ),
    ConvNeXtLayout(
        "timm",
        "stem.0.weight",
        (
            (r"downsample_layers\.0\.(\d+)\.", r"stem.\1."),
            (r"downsample_layers\.(\d+)\.(\d+)\.", r"stages.\1.downsample.\2."),
            (r"stages\.(\d+)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.conv_dw."),
            (r"stages\.(\d+)\.(\d+)\.norm\.", r"stages.\1.blocks.\2.norm."),
            (r"stages\.(\d+)\.(\d+)\.pwconv(\d)\.", r"stages.\1.blocks.\2.mlp.fc\3."),
            (r"stages\.(\d+)\.(\d+)\.gamma", r"stages.\1.blocks.\2.gamma"),
            (r"norm\.", "head.norm."),
        ),
    ),
    ConvNeXtLayout("official", "downsample_layers.0.0.weight", (), _official_hints),
)


def infer_convnext(
    layout: ConvNeXtLayout, shapes: Mapping[str, Shape], hints: Mapping[str, Any], name: str
) -> ConvNeXtConfig:
    """The configuration of a ConvNeXt file from the shapes of its convolutions.

    `check_keys` checks that the other tensors agree. Raises `KeyMismatch` if a convolution is missing
    or impossible, with the file's name for it, and `ArchMismatch` if config.json contradicts.
    """

    def channels(key: str) -> Shape:
        found = shapes.get(layout.spell(key))
        if found is None or len(found) != 4 or 0 in found:
            got = "it is missing" if found is None else f"found {list(found)}"
            raise KeyMismatch(f"{name}: {layout.spell(key)} should be a tensor of 4 axes; {got}")
        return found

    stem = channels("downsample_layers.0.0.weight")
    dims = (stem[0], *(channels(f"downsample_layers.{s}.1.weight")[0] for s in range(1, STAGES)))
    depths = tuple(_depth(layout, shapes, stage, name) for stage in range(STAGES))
    scaled = layout.spell("stages.0.0.gamma") in shapes
    try:
        found = ConvNeXtConfig(depths, dims, in_chans=stem[1], layer_scale_init_value=1e-6 if scaled else 0.0)
    except ConfigError as error:
        raise KeyMismatch(f"{name} describes no model: {error}") from error
    if MODEL_CONFIG in hints:
        described = ConvNeXtConfig.from_dict(hints[MODEL_CONFIG])
        hints = {field: list(getattr(described, field)) for field in HF_SHAPE}
        found = replace(found, patch_size=described.patch_size, drop_path_rate=described.drop_path_rate)
    for field, told in hints.items():
        held = list(getattr(found, field))
        if held != told:
            raise ArchMismatch(
                f"{name} holds {field} {held}, config.json says {told}; use the config.json of these weights"
            )
    return found


def repeat_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with a real copy of the repeated norm: safetensors does not store shared memory."""
    return {key: tensor.clone() if key in TWICE else tensor for key, tensor in state.items()}


def check_repeated_norm(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise `KeyMismatch` if the two copies of the final norm in an official file differ."""
    for key, original in TWICE.items():
        if key in tensors and not torch.equal(tensors[key], tensors[original]):
            raise KeyMismatch(f"{name}: {key} and {original} differ; wanted one norm, stored twice")


def _depth(layout: ConvNeXtLayout, shapes: Mapping[str, Shape], stage: int, name: str) -> int:
    """1 + the highest block index of a stage. Raises `KeyMismatch` if it exceeds the number of tensors."""
    first = layout.spell(f"stages.{stage}.0.gamma")
    prefix = re.escape(first.removesuffix("0.gamma"))
    pattern = re.compile(rf"{prefix}(\d{{1,18}})\.")
    depth = 1 + max((int(m[1]) for key in shapes if (m := pattern.match(key))), default=-1)
    if not 1 <= depth <= len(shapes):
        raise KeyMismatch(
            f"{name} has block indices up to {depth - 1} in stage {stage} and {len(shapes)} tensors in all; "
            f"wanted {first.removesuffix('.gamma')} onwards, without gaps"
        )
    return depth
