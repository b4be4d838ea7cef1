"""A user's own models export, or are refused with a reason: tokens, positions, attention.

Source: docs/development/seed.md S35-S40.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from dinodeploy.errors import ExportError
from dinov3_ref.layers import AbsolutePositionEmbedding
from dinov3_ref.models import attention_maps
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from exporters.graph.files import write_onnx
from exporters.graph.lint import check_onnx, lint
from exporters.trace.fold import make_meta_copy
from exporters.trace.trace import TokenOutputs
from tests.compatibility.test_parts import CustomAttention, CustomTokensVisionTransformer
from tests.support.graphs import graph_of
from tests.support.images.photographs import pixels

SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 2,
    "n_storage_tokens": 4,
    "mask_k_bias": True,
    "pos_embed_rope_dtype": "fp32",
}
TOLERANCE = 2e-5  # measured 3e-6


def run_exported(model: DinoVisionTransformer, folder: Path, x: Tensor, **options: Any) -> dict[str, Tensor]:
    """Outputs of the graph that `model` becomes, for images [B,3,H,W]."""
    graph = graph_of(model, **options)
    lint(graph)
    check_onnx(graph)
    session = onnxruntime.InferenceSession(write_onnx(graph, folder / "model.onnx")[0])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {"pixels": x.numpy()})
    return {name: torch.from_numpy(out) for name, out in zip(names, outputs, strict=True)}


def lively(model: DinoVisionTransformer) -> DinoVisionTransformer:
    """Weights ten times as large, so that attention and positions count."""
    for block in model.blocks:
        block.attn.qkv.weight.data *= 10  # type: ignore[union-attr, operator]
    return model.eval()


class Shift(torch.nn.Module):
    """Positions that do not care how many patches there are."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def assert_exports(model: DinoVisionTransformer, folder: Path) -> None:
    """Traced at a grid of 4x6, run at 5x3: own tokens are an output and no patches; so is attention."""
    x = pixels(["coffee", "china"], 80, 48)
    got = run_exported(model, folder, x, attention=True)
    with torch.no_grad():
        wanted = model(x, is_training=True)
    storage = ["storage"] if model.n_storage_tokens else []
    assert list(got) == ["cls", *storage, "extra", "patch", "attention"]
    shapes = got["extra"].shape, got["patch"].shape, got["attention"].shape
    assert shapes == ((2, 3, 64), (2, 5, 3, 64), (2, 2, 5, 3))
    keys = {"cls": "x_norm_clstoken", "extra": "x_extra_tokens", "patch": "x_norm_patchtokens"}
    for name, key in keys.items():
        torch.testing.assert_close(got[name].reshape(wanted[key].shape), wanted[key], atol=TOLERANCE, rtol=0)
    attention = attention_maps(model, x, patches_only=True)
    assert attention.std() > 0.01, "attention looks somewhere"
    torch.testing.assert_close(got["attention"], attention, atol=TOLERANCE, rtol=0)


def test_extra_tokens_and_attention(tmp_path: Path) -> None:
    assert_exports(lively(CustomTokensVisionTransformer(**SMALL)), tmp_path)


def test_own_tokens_positions_and_attention(tmp_path: Path) -> None:
    """Tokens without storage tokens, other positions, and other attention in the first block."""
    model = CustomTokensVisionTransformer(**{**SMALL, "n_storage_tokens": 0})
    model.rope_embed = Shift()  # type: ignore[assignment]
    model.blocks[0].attn = CustomAttention(64, num_heads=2)
    assert_exports(lively(model), tmp_path)


def test_attention_of_unknown_kind_is_refused() -> None:
    model = DinoVisionTransformer(**SMALL, attn_class=CustomAttention).eval()
    with pytest.raises(ValueError, match="CustomAttention; its weights are unknown"):
        TokenOutputs(model, attention=True)(pixels(["coffee"], 32, 48))


def test_rope_in_16_bits_is_refused() -> None:
    """The class default, as published; a float32 graph would not be that model."""
    with pytest.raises(ExportError, match=r"RoPE in bfloat16 .* pos_embed_rope_dtype"):
        make_meta_copy(DinoVisionTransformer(**{**SMALL, "pos_embed_rope_dtype": "bf16"}))


def test_positions_for_one_size_are_refused() -> None:
    """A graph with free height and width cannot hold them."""
    model = DinoVisionTransformer(**SMALL)
    model.rope_embed = AbsolutePositionEmbedding(6, 64)  # type: ignore[assignment]
    with pytest.raises(ExportError, match="does not accept images of any size: AbsolutePositionEmbedding"):
        TokenOutputs(model)
