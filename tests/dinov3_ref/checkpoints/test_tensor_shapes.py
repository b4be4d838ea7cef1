"""The table of tensors against the model it describes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.tensor_shapes import expected_shapes, ffn_width
from dinov3_ref.errors import ConfigError, KeyMismatch
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig
from dinov3_ref.models.convnext import ConvNeXt
from dinov3_ref.models.released import ARCHITECTURES, RELEASED, VITS
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from tests.support.checkpoint_files import TINY_VITS, write_official

TINY_VIT = TINY_VITS["mlp"]
CONFIGS: dict[str, ModelConfig] = {
    **ARCHITECTURES,
    **{row.name: row.config for row in RELEASED},
    "no extras": replace(TINY_VIT, layerscale_init=None, n_storage_tokens=0, mask_k_bias=False),
    "no biases": replace(TINY_VIT, qkv_bias=False, proj_bias=False, ffn_bias=False),
    "rmsnorm": replace(TINY_VIT, norm_layer="rmsnorm", untie_cls_and_patch_norms=True),
    "swiglu128": replace(TINY_VIT, ffn_layer="swiglu128", ffn_ratio=3.0),
    "ConvNeXt of six channels": ConvNeXtConfig((1, 2, 1, 1), (8, 16, 24, 32), in_chans=6),
    "ConvNeXt without LayerScale": ConvNeXtConfig(layer_scale_init_value=0.0),
    "six channels, patch 14": replace(TINY_VIT, in_chans=6, patch_size=14),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_table_is_the_models_state_dict(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        kind = ConvNeXt if isinstance(config, ConvNeXtConfig) else DinoVisionTransformer
        model = kind(**config.kwargs())
    assert expected_shapes(config) == {key: tuple(t.shape) for key, t in model.state_dict().items()}


@pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.name)
def test_released_models_have_the_published_number_of_entries(row) -> None:
    assert len(expected_shapes(row.config)) == row.entries


def test_ffn_width_is_the_published_one() -> None:
    widths = {"vit_small_plus": 1536, "vit_so400m": 4352, "vit_huge_plus": 5120, "vit_7b": 8192}
    assert {arch: ffn_width(VITS[arch]) for arch in widths} == widths


def test_unknown_ffn_is_refused() -> None:
    with pytest.raises(ConfigError, match="ffn_layer 'mixture'"):
        ffn_width(replace(TINY_VIT, ffn_layer="mixture"))


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
        lambda state: state.update({"adapter.weight": torch.zeros(10, 128)}),
        r"0 tensors missing, 1 left over, .*: adapter\.weight expected nothing found \[10, 128\]",
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
