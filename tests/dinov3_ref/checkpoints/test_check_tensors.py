"""Every tensor accounted for, or a line that says which key, what was expected and what was found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.errors import KeyMismatch
from tests.support.checkpoint_files import TINY_VITS, write_official

CHECKPOINT = random_checkpoint(TINY_VITS["mlp"])

# How a file can be wrong, and what must be said.
FAULTS = {
    "missing": (
        lambda state: state.pop("blocks.1.norm2.weight"),
        r"1 tensors missing, 0 left over, 0 of another shape: "
        r"blocks\.1\.norm2\.weight expected \[128\] found nothing",
    ),
    "missing in block 0": (
        lambda state: state.pop("blocks.0.attn.qkv.bias"),
        r"blocks\.0\.attn\.qkv\.bias expected \[384\] found nothing",
    ),
    "missing mask": (
        lambda state: state.pop("blocks.0.attn.qkv.bias_mask"),
        r"bias_mask expected \[384\] found",
    ),
    "missing class token": (lambda state: state.pop("cls_token"), r"cls_token should be a tensor of 3 axes"),
    "missing patch embedding": (lambda state: state.pop("patch_embed.proj.weight"), "tensor of 4 axes"),
    "missing mask token": (lambda state: state.pop("mask_token"), r"mask_token expected \[1, 128\]"),
    "missing block": (
        lambda state: [state.pop(key) for key in list(state) if key.startswith("blocks.0.")],
        "15 tensors missing",
    ),
    "no feed-forward": (
        lambda state: [state.pop(key) for key in list(state) if ".mlp." in key],
        r"blocks\.0\.mlp\.fc1\.weight is missing",
    ),
    "extra": (
        lambda state: state.update({"head.weight": torch.zeros(10, 128)}),
        r"0 tensors missing, 1 left over, .*: head\.weight expected nothing found \[10, 128\]",
    ),
    "wrong shape": (
        lambda state: state.update({"norm.weight": torch.zeros(64)}),
        r"1 of another shape: norm\.weight expected \[128\] found \[64\]",
    ),
    "one block of another width": (
        lambda state: state.update({"blocks.1.mlp.fc1.bias": torch.zeros(256)}),
        r"blocks\.1\.mlp\.fc1\.bias expected \[512\] found \[256\]",
    ),
    "absurd block index": (
        lambda state: state.update({"blocks.99999999999.norm1.weight": torch.zeros(128)}),
        "block indices up to 99999999999 in",
    ),
    "periods of no head width": (
        lambda state: state.update({"rope_embed.periods": torch.ones(5)}),
        "not a multiple of head_dim 20",
    ),
    "empty token": (lambda state: state.update(cls_token=torch.zeros(1, 1, 0)), r"found \[1, 1, 0\]"),
    "integers": (
        lambda state: state.update({"norm.weight": torch.ones(128, dtype=torch.int8)}),
        r"norm\.weight is int8; wanted float32",
    ),
    "sparse": (
        lambda state: state.update({"norm.weight": torch.ones(128).to_sparse()}),
        r"norm\.weight is sparse or has no data",
    ),
    "index of thousands of digits": (
        lambda state: state.update({f"blocks.{'9' * 5000}.norm1.weight": torch.zeros(128)}),
        "1 left over",
    ),
    "nan": (lambda state: state["norm.weight"].fill_(float("nan")), r"norm\.weight holds NaN or infinity"),
    "positive infinity": (
        lambda state: state["norm.bias"][3].fill_(float("inf")),
        "NaN or infinity",
    ),
    "negative infinity": (
        lambda state: state["blocks.0.mlp.fc1.weight"].fill_(-float("inf")),
        "holds NaN or infinity",
    ),
    "one nan among many": (
        lambda state: state["blocks.1.attn.qkv.weight"][7].fill_(float("nan")),
        r"blocks\.1\.attn\.qkv\.weight holds NaN",
    ),
    "uninitialised mask": (
        lambda state: state["blocks.0.attn.qkv.bias_mask"].fill_(float("nan")),
        r"bias_mask is not finite: the mask was never initialised",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tmp_path: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    path = write_official(tmp_path / "a.pth", CHECKPOINT, change=change)
    with pytest.raises(KeyMismatch, match=words) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_at_most_three_keys_are_named(tmp_path: Path) -> None:
    def drop_norms(state) -> None:
        for key in [key for key in state if ".norm" in key]:
            del state[key]

    with pytest.raises(KeyMismatch, match=r"8 tensors missing.*, and 5 more$") as caught:
        load_checkpoint(write_official(tmp_path / "a.pth", CHECKPOINT, change=drop_norms))
    assert str(caught.value).count("expected") == 3


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ("hf", "layer.1.attention.k_proj.weight"),
        ("hf", "embeddings.mask_token"),
        ("hf", "layer.0.attention.q_proj.bias"),
        ("timm", "blocks.0.gamma_2"),
        ("timm", "blocks.1.attn.v_bias"),
    ],
)
def test_messages_speak_the_files_own_names(tmp_path: Path, layout: str, key: str) -> None:
    path = save_checkpoint(CHECKPOINT, layout, tmp_path / layout)[0]
    tensors = load_file(path)
    del tensors[key]
    save_file(tensors, path)
    with pytest.raises(KeyMismatch, match=f"{layout} layout.*1 tensors missing.*{key} expected"):
        load_checkpoint(path)
