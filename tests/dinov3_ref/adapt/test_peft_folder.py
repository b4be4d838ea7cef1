"""A LoRA adapter of ours equals PEFT's on transformers' model: outputs, gradients, the merged weights.

PEFT reads the folder that `write_adapter` wrote. Both models have the same weights, with planted
massive activations, in float64.
Measured: outputs to 3e-7, gradients to 2e-6, outputs of merged weights to 4e-7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dinov3_ref.adapt.lora import LoraOptions, add_lora, lora_layers
from dinov3_ref.adapt.peft_folder import write_adapter
from dinov3_ref.checkpoints import build_model, load_checkpoint, planted_checkpoint, save_checkpoint
from dinov3_ref.models import ModelConfig
from dinov3_ref.torchvision_shim import import_torchvision
from tests.support.tiny_models import tiny_config, tiny_convnext

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of the two libraries, about each other
LIMIT = 1e-5  # RoPE tables are float32 in both, and the planted logits are huge
GRADIENT_LIMIT = 1e-5  # stored as float32
MERGED_LIMIT = 1e-5  # merged weights are float32
MODELS: dict[str, ModelConfig] = {
    "mlp": tiny_config("mlp", embed_dim=64, num_heads=1),
    "swiglu": tiny_config("swiglu", embed_dim=64, num_heads=1),
    "convnext": tiny_convnext(depths=(1, 1, 1, 3), dims=(16, 32, 48, 64)),
}
TARGETS: dict[str, tuple[str, ...]] = {
    "mlp": ("q", "v"),
    "swiglu": ("k", "q", "proj", "mlp", "v"),
    "convnext": ("mlp",),
}


def draw(backbone: nn.Module) -> None:
    """Draw A and B as float32 numbers: a file stores these."""
    generator = torch.Generator().manual_seed(3)
    for _, layer in lora_layers(backbone):
        for matrix in (*layer.a, *layer.b):
            matrix.data = torch.randn(matrix.shape, generator=generator).div(12).double()


def of_hub(folder: Path) -> nn.Module:
    """transformers' model in float64, its weights those of `folder`."""
    import_torchvision()
    from transformers import AutoModel

    model: nn.Module = AutoModel.from_pretrained(folder).double().eval()
    return model


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


@pytest.mark.parametrize("kind", MODELS)
def test_peft_computes_the_same(kind: str, tmp_path: Path) -> None:
    save_checkpoint(planted_checkpoint(MODELS[kind], pathology="late"), "hf", tmp_path / "base")
    base = load_checkpoint(tmp_path / "base", periods="fp32")
    backbone = build_model(base, torch.float64)
    options = LoraOptions(rank=3, alpha=5, targets=TARGETS[kind])
    pixels = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frozen = backbone(pixels)
    add_lora(backbone, options)
    assert torch.equal(backbone(pixels), frozen)  # B is zero
    draw(backbone)
    write_adapter(backbone, options, tmp_path / "adapter")
    hub = of_hub(tmp_path / "base")
    from peft import PeftModel

    theirs: Any = PeftModel.from_pretrained(hub, tmp_path / "adapter", is_trainable=True)
    wanted, found = theirs(pixel_values=pixels).pooler_output, backbone(pixels)
    assert error(found, wanted) < LIMIT
    assert error(frozen, wanted) > 1e-2

    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    gradients = {
        name.replace(".default.", "."): parameter.grad.float()
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    for _, layer in lora_layers(backbone):
        for matrix in (*layer.a, *layer.b):
            matrix.data = matrix.grad  # written under the names of PEFT
    write_adapter(backbone, options, tmp_path / "gradients")
    ours = load_file(tmp_path / "gradients" / "adapter_model.safetensors")
    assert ours.keys() == gradients.keys()
    largest = max(float(gradient.norm()) for gradient in gradients.values())
    for name, gradient in gradients.items():  # those of saturated attention are zero but for rounding
        limit = max(float(gradient.norm()), 1e-6 * largest) * GRADIENT_LIMIT
        assert float((ours[name] - gradient).norm()) < limit, name
    assert not any(parameter.grad is not None for parameter in frozen_parameters(backbone))

    merged = build_model(load_checkpoint(tmp_path / "base", adapter=tmp_path / "adapter"), torch.float64)
    assert error(merged(pixels), wanted) < MERGED_LIMIT
    assert error(theirs.merge_and_unload()(pixel_values=pixels).pooler_output, merged(pixels)) < MERGED_LIMIT


def frozen_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    trained = {id(matrix) for _, layer in lora_layers(backbone) for matrix in (*layer.a, *layer.b)}
    return [parameter for parameter in backbone.parameters() if id(parameter) not in trained]
