"""Folders of transformers with EoMT models on DINOv3 whose weights are lively."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints.layouts.hf import HuggingFaceLayout
from dinov3_ref.checkpoints.synthetic.planted import Pathology, planted_checkpoint
from dinov3_ref.checkpoints.synthetic.random import generator_of
from dinov3_ref.tasks import LoadedTask, load_task_model
from dinov3_ref.tasks.eomt import Eomt

NAMES = ("person", "bicycle", "car", "sky", "road")
TINY = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_blocks": 2,
    "num_queries": 12,
    "num_register_tokens": 4,
    "image_size": 128,
}
PROCESSOR = {
    "do_pad": True,
    "do_resize": True,
    "do_split_image": False,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "image_processor_type": "EomtImageProcessor",
    "size": {"shortest_edge": 128, "longest_edge": 128},
}


def transformers_eomt(masked: Sequence[float] = (0.0, 0.0), seed: int = 0, **changes: Any) -> nn.Module:
    """transformers' model in eval mode, with lively weights."""
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

    names = dict(enumerate(NAMES))
    config = EomtDinov3Config(**{**TINY, "id2label": names, "label2id": {}, **changes})
    model = EomtDinov3ForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            tensor.copy_(_lively(key, tensor, seed))
        model.attn_mask_probs.copy_(torch.tensor(masked))
    return model


def _lively(key: str, tensor: Tensor, seed: int) -> Tensor:
    """Values for which each block, norm, bias and token changes the outputs."""
    noise = torch.randn(tensor.shape, generator=generator_of(f"{seed}/{key}"))
    if "lambda1" in key:
        return 0.5 + 0.2 * noise
    if "norm" in key and key.endswith("weight"):
        return 1.0 + 0.2 * noise
    if key.endswith("bias"):
        return 0.2 * noise
    if "token" in key or key == "query.weight":
        return 2.0 * noise
    fan_in = tensor[0].numel() if "upscale" not in key or "conv2" in key else tensor.shape[0]
    return 1.2 * noise / fan_in**0.5


def save_eomt(model: nn.Module, folder: Path, processor: dict[str, Any] | None = None) -> Path:
    """Save a model of transformers with a preprocessor_config.json; returns the folder."""
    model.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**PROCESSOR, **(processor or {})}), encoding="utf-8")
    return folder


def run_at(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits and mask logits of transformers' model, its grid set to the size of `pixels`."""
    p = model.config.patch_size
    model.grid_size = (pixels.shape[2] // p, pixels.shape[3] // p)
    with torch.no_grad():
        out = model(pixels)
    return out.class_queries_logits, out.masks_queries_logits


def load_folder(folder: Path) -> LoadedTask:
    """The whole model of a folder."""
    loaded = load_task_model(folder)
    assert loaded is not None
    return loaded


def load_eomt_of(model: nn.Module) -> Eomt:
    """Our model with the weights of transformers' model, through a file."""
    with TemporaryDirectory() as folder:
        loaded = load_folder(save_eomt(model, Path(folder)))
    assert isinstance(loaded.model, Eomt)
    return loaded.model


def plant(model: nn.Module, pathology: Pathology = "early", seed: int = 0) -> nn.Module:
    """Give the backbone of transformers' model planted weights: massive activations, sinks, skewed ranges."""
    ours = load_eomt_of(model)
    layout = HuggingFaceLayout()
    config = ours.config.backbone
    planted = layout.from_official(planted_checkpoint(config, seed, pathology=pathology).state, config)
    state = {
        key.replace("layer.", "layers.", 1) if key.startswith("layer.") else f"layernorm{key[4:]}": tensor
        for key, tensor in planted.items()
        if not key.startswith("embeddings.")
    }
    state |= {key: t for key, t in planted.items() if key.startswith("embeddings.") and "mask" not in key}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not any(key.startswith(("layer", "embeddings")) for key in missing)
    return model
