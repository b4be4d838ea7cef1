"""One checkpoint in four implementations: ours, transformers', timm's, and ours again in float64.

The weights come from `random_checkpoint` and reach the libraries through our own converters, each model is
built by its library, and RoPE periods are exact fp32 unless a caller says otherwise: the libraries compute
theirs, and do not round to bfloat16 (docs/spec.md 3.6).
Shapes: B photographs, H W pixels, D embed_dim, R storage tokens, P patches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints import Checkpoint, build_model, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.layouts.official import PERIODS, rope_periods
from dinov3_ref.checkpoints.layouts.timm import TimmLayout
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.released import ARCHITECTURES
from dinov3_ref.torchvision_shim import import_torchvision
from tests.support.images.photographs import pixels

Tokens = dict[str, Tensor]  # cls [B,D], storage [B,R,D], patch [B,P,D]
Implementation = Callable[[Tensor], Tokens]  # pixels [B,3,H,W] -> normed tokens

PHOTOGRAPHS = ("chelsea", "rocket", "china")
SIZES = ((224, 224), (256, 384), (512, 320))  # (H, W)

# Every kind of block at nearly its own width, in few blocks; and one released model as it is.
MODELS: dict[str, ViTConfig] = {
    "mlp": replace(ARCHITECTURES["vit_small"], depth=3),
    "swiglu": replace(ARCHITECTURES["vit_small_plus"], depth=3),
    "seven_b": replace(ARCHITECTURES["vit_7b"], embed_dim=512, depth=3, num_heads=4),  # head_dim 128
    "vit_small": ARCHITECTURES["vit_small"],
}
# Our model -> timm's own entry point, and what is overridden there. "_qkvb" has biases on q and v.
TIMM_ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("vit_small_patch16_dinov3_qkvb", {"depth": 3}),
    "mlp as released": ("vit_small_patch16_dinov3", {"depth": 3}),
    "swiglu": ("vit_small_plus_patch16_dinov3_qkvb", {"depth": 3}),
    "seven_b": ("vit_7b_patch16_dinov3", {"embed_dim": 512, "depth": 3, "num_heads": 4}),
    "vit_small": ("vit_small_patch16_dinov3_qkvb", {}),
}


def checkpoint_of(model: str) -> Checkpoint:
    """A model of `MODELS` with exact periods; "as released" closes its qkv bias and mask.

    Source: docs/spec.md 0, fact 2.
    """
    checkpoint = random_checkpoint(MODELS[model.removesuffix(" as released")])
    state = {**checkpoint.state, PERIODS: rope_periods(checkpoint.config, "fp32")}
    if model.endswith(" as released"):
        closed = (key for key in state if key.endswith(("qkv.bias", "qkv.bias_mask")))
        state.update({key: torch.zeros_like(state[key]) for key in closed})
    return replace(checkpoint, state=state)


def ours(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Implementation:
    """`dinov3_ref`, from the checkpoint as it is, without a converter."""
    model = build_model(checkpoint, dtype)

    def run(x_BCHW: Tensor) -> Tokens:
        features = model.forward_features(x_BCHW.to(dtype))
        return {
            "cls": features["x_norm_clstoken"],
            "storage": features["x_storage_tokens"],
            "patch": features["x_norm_patchtokens"],
        }

    return run


def ours_in_float64(checkpoint: Checkpoint) -> Implementation:
    """Our model with float64 weights, float64 arithmetic and a float64 RoPE table of the same periods."""
    config = replace(checkpoint.config, pos_embed_rope_dtype="fp64")
    return ours(replace(checkpoint, config=config), torch.float64)


def transformers_model(checkpoint: Checkpoint) -> torch.nn.Module:
    """transformers' DINOv3ViTModel on converted weights, with its plain softmax(QKᵀ)V attention."""
    import_torchvision()
    from transformers import DINOv3ViTModel

    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(checkpoint, "hf", Path(directory) / "hf")
        loaded: Any = DINOv3ViTModel.from_pretrained(
            Path(directory) / "hf", attn_implementation="eager", output_loading_info=True
        )
    model, report = loaded
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report
    return model.eval()


def in_transformers(checkpoint: Checkpoint) -> Implementation:
    model = transformers_model(checkpoint)
    return lambda x_BCHW: split_tokens(model(x_BCHW).last_hidden_state, checkpoint.config)


def timm_model(checkpoint: Checkpoint, model_name: str) -> torch.nn.Module:
    """timm's model, from its own entry point, on converted weights loaded strictly."""
    import_torchvision()
    import timm

    entry, overrides = TIMM_ENTRIES[model_name]
    model = timm.create_model(entry, pretrained=False, num_classes=0, **overrides)
    model.load_state_dict(TimmLayout().from_official(checkpoint.state, checkpoint.config), strict=True)
    return model.eval()


def in_timm(checkpoint: Checkpoint, model_name: str) -> Implementation:
    model = timm_model(checkpoint, model_name)
    return lambda x_BCHW: split_tokens(model.forward_features(x_BCHW), checkpoint.config)  # type: ignore[operator]


def split_tokens(x_BND: Tensor, config: ViTConfig) -> Tokens:
    """[CLS, storage, patches] in one tensor -> by name."""
    prefix = 1 + config.n_storage_tokens
    return {"cls": x_BND[:, 0], "storage": x_BND[:, 1:prefix], "patch": x_BND[:, prefix:]}


def reference(name: str, checkpoint: Checkpoint, model_name: str) -> Implementation:
    """The other side of a comparison, by its name in `tolerances.py`."""
    if name == "timm":
        return in_timm(checkpoint, model_name)
    return {"transformers": in_transformers, "float64": ours_in_float64}[name](checkpoint)


def inputs(model_name: str) -> list[Tensor]:
    """One batch per size: all photographs, or one photograph per size for the deep model."""
    shares = [PHOTOGRAPHS] * len(SIZES)
    if model_name == "vit_small":
        shares = [(name,) for name in PHOTOGRAPHS]  # type: ignore[misc]
    return [pixels(names, *size) for names, size in zip(shares, SIZES, strict=True)]


@cache
def our_tokens(model_name: str) -> list[Tokens]:
    """Ours in fp32 on `inputs`: what every reference is compared with."""
    run = ours(checkpoint_of(model_name))
    with torch.no_grad():
        return [run(x_BCHW) for x_BCHW in inputs(model_name)]


def measure(name: str, model_name: str) -> dict[str, float]:
    """Largest error of each kind of token, over photographs and sizes, of ours against reference `name`."""
    wanted = reference(name, checkpoint_of(model_name), model_name)
    worst: dict[str, float] = {}
    for got, x_BCHW in zip(our_tokens(model_name), inputs(model_name), strict=True):
        with torch.no_grad():
            errors = relative_errors(got, wanted(x_BCHW))
        worst = {kind: max(error, worst.get(kind, 0.0)) for kind, error in errors.items()}
    return worst


def relative_errors(got: Tokens, wanted: Tokens) -> dict[str, float]:
    """‖got - wanted‖ / ‖wanted‖ of each kind of token, for the photograph where it is largest.

    Shapes must be equal, not only broadcast.
    """
    assert {kind: x.shape for kind, x in got.items()} == {kind: x.shape for kind, x in wanted.items()}
    errors = {}
    for kind in wanted:
        one, other = got[kind].double().flatten(1), wanted[kind].double().flatten(1)
        errors[kind] = float(((one - other).norm(dim=1) / other.norm(dim=1)).max())
    return errors
