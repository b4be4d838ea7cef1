"""JSON files that transformers and timm need beside the weights, and what they cannot describe.

Source: docs/spec.md 3.3 and 3.4 (configuration fields), 6 (pre-processing of each library).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from dinov3_ref.checkpoints.architecture import META_LICENCE, NORMALIZATION
from dinov3_ref.checkpoints.checkpoint import Channels, Checkpoint
from dinov3_ref.checkpoints.layouts.convnext import HF_ACTIVATION, HF_EPS, HF_MODEL_TYPE
from dinov3_ref.checkpoints.layouts.hf import FFN_ACTIVATION, NORM_BY_EPS
from dinov3_ref.checkpoints.layouts.official import PERIODS, has_key_bias, has_qkv_bias, is_computed
from dinov3_ref.checkpoints.tensor_shapes import ffn_width
from dinov3_ref.models.config import ConvNeXtConfig, ViTConfig
from dinov3_ref.models.released import RELEASED

HF_IMAGE_SIZE = 224
TIMM_IMAGE_SIZE = 256
BILINEAR = 2  # PIL's number

# arch -> timm's name; a model without one is described by a similar model and `model_args`.
TIMM_NAMES = {row.arch: row.timm_name.split(".")[0] for row in RELEASED if row.timm_name}
TIMM_CONVNEXT = "convnext_tiny"  # for a ConvNeXt of other dimensions
TIMM_SIMILAR = {True: "vit_small_plus_patch16_dinov3", False: "vit_small_patch16_dinov3"}  # by SwiGLU
TIMM_WITHOUT_QKVB_VARIANT = ("vit_7b",)


def obstacles(checkpoint: Checkpoint, layout: str) -> Iterator[str]:
    """Reasons why "hf" or "timm" cannot store `checkpoint` so that the library computes the same features."""
    config = checkpoint.config
    timm = layout == "timm"
    if isinstance(config, ConvNeXtConfig):
        if not config.layer_scale_init_value and not timm:
            yield "it needs LayerScale in every block"
        return
    if config.untie_cls_and_patch_norms:
        yield "it has no separate cls_norm"
    if not config.layerscale_init:
        yield "it needs LayerScale in every block"
    if not config.n_storage_tokens:
        yield "it needs storage tokens"
    if config.norm_layer == "rmsnorm" or (timm and config.norm_layer != "layernormbf16"):
        yield f"it has no norm {config.norm_layer!r}"
    if config.pos_embed_rope_normalize_coords != "separate":
        yield "it normalises RoPE coordinates per axis"
    if not is_computed(checkpoint.state[PERIODS], config) or config.pos_embed_rope_base is None:
        yield f"it computes RoPE periods from base {config.pos_embed_rope_base} and these are others"
    if timm and not (config.proj_bias and config.ffn_bias):
        yield "its linear layers have biases"


def normalization(checkpoint: Checkpoint) -> tuple[Channels, Channels]:
    """Input (mean, std) of a checkpoint; ImageNet's if unknown."""
    if checkpoint.mean and checkpoint.std:
        return checkpoint.mean, checkpoint.std
    return NORMALIZATION[checkpoint.dataset or "lvd1689m"]


def hf_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json for transformers' DINOv3ViTModel or DINOv3ConvNextModel."""
    config = checkpoint.config
    if isinstance(config, ConvNeXtConfig):
        return _hf_convnext_config(checkpoint, config)
    gated = config.ffn_layer != "mlp"
    return {
        "architectures": ["DINOv3ViTModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": config.drop_path_rate,
        "dtype": _stored_type(checkpoint.state["patch_embed.proj.weight"]),
        "hidden_act": FFN_ACTIVATION[gated],
        "hidden_size": config.embed_dim,
        "image_size": HF_IMAGE_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": ffn_width(config),
        "key_bias": has_key_bias(checkpoint.state, config),
        "layer_norm_eps": next(eps for eps, norm in NORM_BY_EPS.items() if norm == config.norm_layer),
        "layerscale_value": 1.0,
        "mlp_bias": config.ffn_bias,
        "model_type": "dinov3_vit",
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_chans,
        "num_hidden_layers": config.depth,
        "num_register_tokens": config.n_storage_tokens,
        "patch_size": config.patch_size,
        "pos_embed_jitter": config.pos_embed_rope_jitter_coords,
        "pos_embed_rescale": config.pos_embed_rope_rescale_coords,
        "pos_embed_shift": config.pos_embed_rope_shift_coords,
        "proj_bias": config.proj_bias,
        "query_bias": config.qkv_bias,
        "rope_theta": config.pos_embed_rope_base,
        "use_gated_mlp": gated,
        "value_bias": config.qkv_bias,
    }


def _hf_convnext_config(checkpoint: Checkpoint, config: ConvNeXtConfig) -> dict[str, Any]:
    return {
        "architectures": ["DINOv3ConvNextModel"],
        "depths": list(config.depths),
        "drop_path_rate": config.drop_path_rate,
        "dtype": _stored_type(checkpoint.state["norm.weight"]),
        "hidden_act": HF_ACTIVATION,
        "hidden_sizes": list(config.dims),
        "image_size": HF_IMAGE_SIZE,
        "initializer_range": 0.02,
        "layer_norm_eps": HF_EPS,
        "layer_scale_init_value": config.layer_scale_init_value,
        "model_type": HF_MODEL_TYPE,
        "num_channels": config.in_chans,
    }


def hf_preprocessor(checkpoint: Checkpoint) -> dict[str, Any]:
    """preprocessor_config.json: rescale, resize to a square, normalise."""
    mean, std = normalization(checkpoint)
    return {
        "data_format": "channels_first",
        "default_to_square": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(mean),
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "image_std": list(std),
        "resample": BILINEAR,
        "rescale_factor": 1 / 255,
        "size": {"height": HF_IMAGE_SIZE, "width": HF_IMAGE_SIZE},
    }


def timm_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json for `timm.create_model("local-dir:...")`; "architecture" is a name for `create_model`."""
    config = checkpoint.config
    architecture, arguments = _timm_architecture(checkpoint)
    mean, std = normalization(checkpoint)
    side = TIMM_IMAGE_SIZE // config.stride * config.stride
    is_vit = isinstance(config, ViTConfig)
    described = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": config.embed_dim,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": checkpoint.dataset or "",
            "custom_load": False,
            "input_size": [config.in_chans, side, side],
            "fixed_input_size": is_vit,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj" if is_vit else "stem.0",
            "classifier": "head" if is_vit else "head.fc",
            "license": checkpoint.licence or META_LICENCE,
        },
    }
    return {**described, "model_args": arguments} if arguments else described


def _timm_architecture(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """timm's name, and the arguments that make it this model."""
    config, arch = checkpoint.config, checkpoint.arch
    if isinstance(config, ConvNeXtConfig):
        return _timm_convnext(arch, config)
    biased = has_qkv_bias(checkpoint.state, config)
    theta = config.pos_embed_rope_base
    arguments: dict[str, Any] = {} if theta == 100.0 else {"rope_temperature": theta}
    if arch in TIMM_NAMES and not (biased and arch in TIMM_WITHOUT_QKVB_VARIANT):
        name = TIMM_NAMES[arch]
    else:
        name = TIMM_SIMILAR[config.ffn_layer != "mlp"]
        arguments |= {
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": ffn_width(config) / config.embed_dim,
            "num_reg_tokens": config.n_storage_tokens,
            "patch_size": config.patch_size,
            "in_chans": config.in_chans,
        }
    return (f"{name}_qkvb" if biased else name), arguments


def _timm_convnext(arch: str, config: ConvNeXtConfig) -> tuple[str, dict[str, Any]]:
    if arch in TIMM_NAMES:
        return TIMM_NAMES[arch], {}
    shape = {"depths": list(config.depths), "dims": list(config.dims), "in_chans": config.in_chans}
    return TIMM_CONVNEXT, shape | ({} if config.layer_scale_init_value else {"ls_init_value": None})


def _stored_type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
