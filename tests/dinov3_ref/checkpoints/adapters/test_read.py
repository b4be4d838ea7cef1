"""Adapter folders: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dinov3_ref.checkpoints.adapters.read import read_adapter
from dinov3_ref.errors import CheckpointError, KeyMismatch

QKV = "base_model.model.blocks.0.attn.qkv"


def tensors(**more: Tensor) -> dict[str, Tensor]:
    """A layer of rank 2, and others by the end of their names."""
    pair = {f"{QKV}.lora_A.weight": torch.ones(2, 4), f"{QKV}.lora_B.weight": torch.ones(12, 2)}
    return {**pair, **{f"{QKV}.{name.replace('__', '.')}": tensor for name, tensor in more.items()}}


def write(
    folder: Path, held: dict[str, Tensor], name: str = "adapter_model.safetensors", **config: Any
) -> Path:
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["qkv"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    if name.endswith(".bin"):
        torch.save(held, folder / name)
    else:
        save_file(held, folder / name)
    return folder


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_reads_layers_and_trained_tensors(tmp_path: Path, name: str) -> None:
    held = tensors(base_layer__bias=torch.ones(12), lora_B__bias=torch.ones(12))
    held["base_model.model.classifier.modules_to_save.default.weight"] = torch.ones(3, 4)
    adapter = read_adapter(write(tmp_path, held, name, lora_bias=True))
    layer = adapter.layers["blocks.0.attn.qkv"]
    assert layer.scaling == 2.0
    assert layer.bias is not None
    assert adapter.trained.keys() == {"blocks.0.attn.qkv.bias", "classifier.weight"}
    assert adapter.source == tmp_path.name


def test_the_hash_covers_both_files(tmp_path: Path) -> None:
    hashes = {
        read_adapter(write(tmp_path, held, **config)).sha256
        for held, config in (
            (tensors(), {}),
            (tensors(), {"lora_alpha": 5}),
            ({name: 2 * tensor for name, tensor in tensors().items()}, {}),
        )
    }
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("held", "config", "words"),
    [
        ({f"{QKV}.lora_A.weight": torch.ones(2, 4)}, {}, "blocks.0.attn.qkv.lora_B is missing"),
        (tensors(), {"use_dora": True}, "lora_magnitude_vector is missing"),
        (tensors(lora_magnitude_vector=torch.ones(12)), {}, "lora_magnitude_vector is not expected"),
        (tensors(), {"r": 8}, "has rank 2, adapter_config.json says 8"),
        (tensors(lora_embedding_A=torch.ones(2)), {}, "is of no linear layer or convolution"),
        (tensors(lora_B__bias=torch.full((12,), torch.nan)), {}, "NaN or infinity"),
        ({}, {}, "holds no tensors"),
    ],
)
def test_refuses(held: dict[str, Tensor], config: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(KeyMismatch) as caught:
        read_adapter(write(tmp_path, held, **config))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        read_adapter(tmp_path / "none")
    write(tmp_path, tensors())
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"holds neither adapter_model\.safetensors nor adapter_model\.bin"
    ):
        read_adapter(tmp_path)
