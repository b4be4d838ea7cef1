"""Load EoMT on DINOv3 from a folder of transformers: its config.json and its weights.

Strict: every tensor of the model is there in its shape, and no other; config.json and tensors agree.
`eomt_processor.py` reads what the folder says about preprocessing.

Shapes: D embed_dim, Q queries, C classes, n number of the last blocks, through which queries pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints.architecture import (
    infer_config,
    infer_dataset,
    name_architecture,
    sidecar_licence,
)
from dinov3_ref.checkpoints.files import RawCheckpoint, json_number, json_object
from dinov3_ref.checkpoints.layouts.hf import NORM_BY_EPS, HuggingFaceLayout
from dinov3_ref.checkpoints.load import complete
from dinov3_ref.checkpoints.tensor_shapes import Shape, check_keys, check_values, ffn_width
from dinov3_ref.errors import CheckpointError, ConfigError, KeyMismatch
from dinov3_ref.tasks.eomt import ACTIVATIONS, Eomt, EomtConfig
from dinov3_ref.tasks.eomt_processor import read_processor
from dinov3_ref.tasks.load import LoadedTask, config_of

MASK_PROBS = "attn_mask_probs"  # [n], a buffer: the share of queries whose attention is masked in each block
LOSS_WEIGHT = "criterion.empty_weight"  # [C+1], for training only
MASK_TOKEN = "mask_token"

# Start of a name in the file -> in `HuggingFaceLayout`, which knows the rest.
BACKBONE = {"layers.": "layer.", "layernorm.": "norm.", "embeddings.": "embeddings."}
# Name of a layer after the backbone in the file -> ours.
HEAD = {
    "query.weight": "queries",
    "class_predictor.": "class_head.",
    "mask_head.": "mask_head.",
    "upscale_block.block.": "upscale.",
    ".conv1.": ".enlarge.",
    ".conv2.": ".mix.",
    ".layernorm2d.": ".norm.",
}
# What transformers takes where config.json says nothing, of what no tensor shows.
DEFAULTS = {"num_attention_heads": 16, "layer_norm_eps": 1e-6, "image_size": 640, "rope_theta": 100.0}


def load_eomt(raw: RawCheckpoint) -> LoadedTask:
    """The model of a folder with `model_type` eomt_dinov3, fp32, in eval mode. Raises `CheckpointError`."""
    name, model = str(raw.path), read_model(raw)
    config = model.config.backbone
    stride = config.patch_size // 2**model.config.num_upscale_blocks
    processor = read_processor(raw, model.config.image_size, config.patch_size, stride, model.classes)
    model.settings = processor.settings
    arch, _ = name_architecture(config, biases_may_lack=True)
    dataset, _ = infer_dataset(name, raw.sha256, (processor.mean, processor.std), arch, None)
    return LoadedTask(
        model=model,
        kind=model.kind,
        arch=arch,
        source=name,
        sha256=raw.sha256,
        layout="hf",
        dataset=dataset,
        size=(processor.side, processor.side),
        mean=processor.mean,
        std=processor.std,
        preset=processor.preset,
        licence=sidecar_licence(raw.sidecars),
        notes=processor.notes,
    )


def read_model(raw: RawCheckpoint) -> Eomt:
    """The model alone. Raises `CheckpointError`."""
    name, stated = str(raw.path), config_of(raw)
    tensors = {key: value for key, value in raw.tree.items() if isinstance(value, Tensor)}
    check_values(tensors, name)
    layout = HuggingFaceLayout()
    backbone, head = _split(tensors)
    config = _config(backbone, head, stated, name)
    with torch.device("meta"):
        model = Eomt(config, _class_names(stated, config.num_classes, name))
    wanted = {key: tuple(t.shape) for key, t in model.state_dict().items() if not key.startswith("backbone.")}
    inside = layout.shapes(config.backbone)
    del inside[layout.spell(MASK_TOKEN)]  # EoMT has none
    expected = {_file_key(key): shape for key, shape in {**inside, **wanted}.items()}
    expected[MASK_PROBS] = (config.num_blocks,)
    if LOSS_WEIGHT in tensors:
        expected[LOSS_WEIGHT] = (config.num_classes + 1,)
    check_keys(tensors, expected, name)
    backbone[layout.spell(MASK_TOKEN)] = torch.zeros(1, 1, config.backbone.embed_dim)
    state, _ = complete(layout.to_official(backbone, config.backbone), config.backbone, "fp32")
    ours = {f"backbone.{key}": tensor.float() for key, tensor in state.items()}
    ours |= {key: head[key].float() for key in wanted}
    model.load_state_dict(ours, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the backbone by the names of its layout, and all others by ours."""
    backbone, head = {}, {}
    for key, tensor in tensors.items():
        start = next((start for start in BACKBONE if key.startswith(start)), None)
        if start is not None:
            backbone[BACKBONE[start] + key.removeprefix(start)] = tensor
            continue
        for theirs, ours in HEAD.items():
            key = key.replace(theirs, ours)
        head[key] = tensor
    return backbone, head


def _file_key(key: str) -> str:
    """The file's name of a tensor, from that of `_split`."""
    for start, ours in BACKBONE.items():
        if key.startswith(ours):
            return start + key.removeprefix(ours)
    for theirs, ours in reversed(HEAD.items()):
        key = key.replace(ours, theirs)
    return key


def _config(
    backbone: Mapping[str, Tensor], head: Mapping[str, Tensor], stated: Mapping[str, Any], name: str
) -> EomtConfig:
    """The configuration that tensors and config.json agree on. Raises `CheckpointError`."""

    def rows(key: str, rank: int) -> int:
        if key not in head or head[key].dim() != rank:
            raise KeyMismatch(f"{name}: {_file_key(key)} should be a tensor of {rank} axes; wanted one")
        return int(head[key].shape[0])

    activation = stated.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{name}: config.json says hidden_act {activation!r}; wanted one of {', '.join(ACTIVATIONS)}"
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in backbone.items()}
    levels = {key.split(".")[1] for key in head if key.startswith("upscale.")}
    rows(MASK_PROBS, 1)
    try:
        config = EomtConfig(
            backbone=infer_config(HuggingFaceLayout(), shapes, _hints(stated), name),
            num_classes=rows("class_head.weight", 2) - 1,
            num_queries=rows("queries", 2),
            masked=_masked(head[MASK_PROBS], name),
            num_upscale_blocks=len(levels),
            activation=activation,
            image_size=_square(stated, "image_size"),
        )
    except ConfigError as error:
        raise CheckpointError(f"{name} describes no EoMT: {error}") from error
    for key, found in _facts(config, shapes):
        said = _square(stated, key) if key == "patch_size" else json_number(stated, key)
        if said is not None and key in stated and said != found:
            raise KeyMismatch(f"{name}: config.json says {key} {said}, its tensors {found}; wanted the same")
    return config


def _hints(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `ViTConfig` that no tensor shows. Raises `CheckpointError`."""
    rope = json_object(stated, "rope_parameters")
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"config.json says rope_type {rope['rope_type']!r}; wanted 'default'")

    def number(key: str) -> float:
        found = json_number(stated, key)
        return DEFAULTS[key] if found is None else found

    heads, eps = number("num_attention_heads"), number("layer_norm_eps")
    theta = json_number(rope, "rope_theta") or number("rope_theta")
    if eps not in NORM_BY_EPS:
        raise CheckpointError(f"config.json says layer_norm_eps {eps:g}; wanted 1e-05 or 1e-06")
    return {"num_heads": int(heads), "norm_layer": NORM_BY_EPS[eps], "pos_embed_rope_base": float(theta)}


def _masked(probs: Tensor, name: str) -> tuple[bool, ...]:
    """Whether masked attention is on in each of the last blocks [n]. Raises `CheckpointError`.

    Between 0 and 1, transformers draws the masked queries at random in each call, even in eval mode: such a
    model was saved before its training had finished.
    """
    found = [float(value) for value in probs]
    if any(value not in (0.0, 1.0) for value in found):
        shown = ", ".join(f"{value:g}" for value in found)
        raise CheckpointError(
            f"{name}: {MASK_PROBS} is [{shown}], so masked attention is random: training was still switching "
            "it off; set each to 0 (off, as after training) or 1 (on) and save the model again"
        )
    return tuple(value == 1.0 for value in found)


def _square(stated: Mapping[str, Any], key: str) -> int:
    """A size in pixels: a number, or two equal ones."""
    value = stated.get(key, DEFAULTS.get(key))
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"config.json says {key} {value!r}; wanted one number of pixels")
    return value


def _facts(config: EomtConfig, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, int]]:
    """What config.json may say too -> what tensors show."""
    model = config.backbone
    yield "hidden_size", model.embed_dim
    yield "num_hidden_layers", model.depth
    yield "patch_size", model.patch_size
    yield "num_channels", model.in_chans
    yield "num_register_tokens", model.n_storage_tokens
    yield "intermediate_size", ffn_width(model)
    yield "num_blocks", config.num_blocks
    yield "num_queries", config.num_queries
    yield "num_upscale_blocks", config.num_upscale_blocks


def _class_names(stated: Mapping[str, Any], count: int, name: str) -> tuple[str, ...]:
    """Names by class index from `id2label`; empty without it. Raises `CheckpointError`."""
    names = json_object(stated, "id2label")
    if not names:
        return ()
    wanted = [str(index) for index in range(count)]
    if sorted(names, key=str) != sorted(wanted) or not all(isinstance(n, str) for n in names.values()):
        raise CheckpointError(
            f"{name}: id2label in config.json names {len(names)} classes; wanted a name for each of the "
            f'{count} that the weights have, by "0" to "{count - 1}"'
        )
    return tuple(names[index] for index in wanted)
