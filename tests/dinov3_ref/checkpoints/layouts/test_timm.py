"""timm's layout: what its plain variants leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from dinov3_ref.checkpoints import (
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)


def test_dropped_tensors_are_filled_in_with_notes(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("vit_small")
    save_checkpoint(checkpoint, "timm", tmp_path / "timm")
    loaded = load_checkpoint(tmp_path / "timm")
    assert loaded.arch == "vit_small"
    assert not loaded.state["mask_token"].any()
    assert [note.split(":")[0] for note in loaded.notes] == ["mask_token", "RoPE periods", "qkv bias masks"]


def test_plain_timm_variant_has_zero_biases(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("vit_small")
    state = {k: torch.zeros_like(t) if k.endswith("qkv.bias") else t for k, t in checkpoint.state.items()}
    path = save_checkpoint(replace(checkpoint, state=state), "timm", tmp_path / "timm")[0]
    assert not any("bias" in key and "attn.q" in key for key in load_file(path))
    loaded = load_checkpoint(path)
    assert (loaded.arch, loaded.config) == ("vit_small", checkpoint.config)
    assert not loaded.state["blocks.3.attn.qkv.bias"].any()
