"""Load a DEIMv2 detector of transformers: `model.safetensors` beside a config.json of model_type deimv2.

Every tensor of the file is either loaded or known to be unused at inference. Names of the file are those of
the modules here, but for a few (`RENAMED`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.checkpoints.architecture import infer_config, name_architecture, sidecar_normalization
from dinov3_ref.checkpoints.checkpoint import Channels
from dinov3_ref.checkpoints.files import CONFIG, RawCheckpoint, json_object
from dinov3_ref.checkpoints.layouts.hf import HuggingFaceLayout, config_hints
from dinov3_ref.checkpoints.load import complete
from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values
from dinov3_ref.layers.ffn_layers import SwiGLUFFN
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.tasks.deimv2.boxes import bin_offsets
from dinov3_ref.tasks.deimv2.config import PATCH, DeimV2Config, read_config
from dinov3_ref.tasks.deimv2.fold import fold, unfolded_shapes
from dinov3_ref.tasks.deimv2.model import DeimV2
from dinov3_ref.tasks.load import LoadedTask

BACKBONE = "model.conv_encoder.backbone."
PROCESSOR = "preprocessor_config.json"
SIZE = (640, 640)  # of the images that the released models were trained on
NOT_NORMALISED: tuple[Channels, Channels] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# names in the file -> names here, the first match; LAST: the index of the last decoder layer
RENAMED: tuple[tuple[str, str], ...] = (
    (r"(?:model\.decoder\.)?class_embed\.LAST\.", "decoder.class_embed."),
    (r"(?:model\.decoder\.)?bbox_embed\.", "decoder.bbox_embed."),
    (r"model\.decoder\.lqe_layers\.LAST\.", "decoder.quality."),
    (r"model\.(?=enc_)", "selection."),
    (r"model\.decoder\.up$", "decoder.offsets"),  # computed from it
    (r"model\.(?=decoder_input_proj\.|decoder\.|encoder\.|conv_encoder\.)", ""),
)
# by the names here: for training only, of layers that score no classes at inference, BatchNorm's counters
UNUSED = re.compile(
    r"model\.denoising_class_embed\.weight|(?:decoder\.)?class_embed\.\d+\.(?:weight|bias)"
    r"|decoder\.lqe_layers\.\d+\.reg_conf\..+|.+\.num_batches_tracked"
)


def load(raw: RawCheckpoint) -> LoadedTask:
    """The detector in `raw`. Raises `CheckpointError`; `ForeignCheckpoint` for one without DINOv3."""
    name, described = str(raw.path), raw.sidecars.get(CONFIG, {})
    tensors = {key: value for key, value in raw.tree.items() if isinstance(value, Tensor)}
    check_values({key: t for key, t in tensors.items() if not key.endswith("num_batches_tracked")}, name)
    config = read_config(described, name)
    inside = {key.removeprefix(BACKBONE): t for key, t in tensors.items() if key.startswith(BACKBONE)}
    vit, state = _backbone(inside, described["backbone_config"], name)
    arch, _ = name_architecture(vit, biases_may_lack=False)
    model = DeimV2(_empty_backbone(vit, described["backbone_config"]), config)
    outside = {key: t for key, t in tensors.items() if not key.startswith(BACKBONE)}
    state |= _own_state(outside, config, model, name)
    model.load_state_dict(state)
    mean, std = _normalization(raw)
    return LoadedTask(
        model=model.eval(),
        kind=DeimV2.kind,
        arch=arch,
        source=name,
        sha256=raw.sha256,
        layout="hf",
        size=_size(raw) or config.anchor_size or SIZE,
        mean=mean,
        std=std,
        preset="official",
        notes=tuple(_notes(config, described["backbone_config"])),
    )


def _backbone(
    tensors: Mapping[str, Tensor], described: Mapping[str, Any], name: str
) -> tuple[ViTConfig, dict[str, Tensor]]:
    """The backbone's configuration and its tensors by their names in `DeimV2`."""
    layout = HuggingFaceLayout()
    modern = {key: t for key, t in layout.modernise(tensors).items() if t.numel()}  # no registers: [1,0,D]
    shapes = {key: tuple(t.shape) for key, t in modern.items()}
    where = f"{name}, its backbone"
    named = {**described, "hidden_act": "silu"} if _has_gelu_gates(described) else described
    vit = infer_config(layout, shapes, config_hints(named), where)
    check_keys(modern, layout.shapes(vit, modern.keys()), where)
    state, _ = complete(layout.to_official(modern, vit), vit, "fp32")  # transformers' angles are exact
    return vit, {f"backbone.{key}": t.float() for key, t in state.items()}


def _empty_backbone(vit: ViTConfig, described: Mapping[str, Any]) -> DinoVisionTransformer:
    """The backbone before its weights are loaded."""
    backbone = DinoVisionTransformer(**vit.kwargs())
    for layer in backbone.modules() if _has_gelu_gates(described) else ():
        if isinstance(layer, SwiGLUFFN):
            layer.gate = F.gelu
    return backbone


def _has_gelu_gates(described: Mapping[str, Any]) -> bool:
    """Whether config.json says so: transformers' default, though released DINOv3 models have SiLU."""
    return bool(described.get("use_gated_mlp")) and described.get("hidden_act", "gelu") == "gelu"


def _own_state(
    tensors: Mapping[str, Tensor], config: DeimV2Config, model: DeimV2, name: str
) -> dict[str, Tensor]:
    """The other tensors by their names in `DeimV2`. Raises `KeyMismatch` unless they are exactly those."""
    last = config.decoder_layers - 1
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        ours = _rename(key, last)
        copied = ours in found and not key.startswith("model.")  # beside the model: copies of the decoder's
        if not copied and not UNUSED.fullmatch(ours):
            found[ours] = tensor
    if config.shared_boxes:  # one module under the names of all layers, of which a file may keep one
        found |= {
            re.sub(r"bbox_embed\.\d+", f"bbox_embed.{i}", key): tensor
            for key, tensor in found.items()
            if key.startswith("decoder.bbox_embed.")
            for i in range(last + 1)
        }
    own = {key: tuple(t.shape) for key, t in model.state_dict().items() if not key.startswith("backbone.")}
    one = (1,)  # the bins' offsets are computed from `up` and `reg_scale`
    check_keys(found, unfolded_shapes(own | {"decoder.offsets": one, "decoder.reg_scale": one}), name)
    folded = fold(found, own, config.batch_norm_eps)
    return folded | {
        "decoder.offsets": bin_offsets(config.bins, folded["decoder.offsets"], folded["decoder.reg_scale"])
    }


def _rename(key: str, last: int) -> str:
    """A name of the file -> the name here; the name itself if it has no other."""
    for old, new in RENAMED:
        renamed, count = re.subn(f"^{old.replace('LAST', str(last))}", new, key)
        if count:
            return renamed
    return key


def _normalization(raw: RawCheckpoint) -> tuple[Channels, Channels]:
    """(mean, std) of the processor beside the weights; without one, those of the released models."""
    processor = raw.sidecars.get(PROCESSOR)
    if processor is None:
        return IMAGENET
    return (
        (sidecar_normalization(raw.sidecars) or IMAGENET) if processor.get("do_normalize") else NOT_NORMALISED
    )


def _size(raw: RawCheckpoint) -> tuple[int, int] | None:
    """(H, W) that the processor beside the weights stretches images to, if a multiple of the patch."""
    size = json_object(raw.sidecars.get(PROCESSOR, {}), "size")
    height, width = size.get("height"), size.get("width")
    fits = all(isinstance(n, int) and n > 0 and n % PATCH == 0 for n in (height, width))
    return (height, width) if fits else None  # type: ignore[return-value]


def _notes(config: DeimV2Config, backbone: Mapping[str, Any]) -> Iterator[str]:
    """Where config.json asks for what the published model does not do; computed as in transformers."""
    if not config.encoder_positions and config.encoder_layers:
        yield "config.json has an eval_size: the encoder adds no position embedding, as in transformers"
    if _has_gelu_gates(backbone):
        yield (
            "config.json says hidden_act gelu for the gated layers of the backbone, as in transformers; the "
            "released DINOv3 models have silu"
        )
