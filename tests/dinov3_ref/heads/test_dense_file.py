"""Heads of the official linear evaluations, against plain modules of the same names (docs/spec.md 5.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.errors import CheckpointError, ForeignCheckpoint, KeyMismatch
from dinov3_ref.heads import LinearDepth, LinearSegmenter, load_head

D, K, BINS = 12, 5, 16


def official(name: str, outputs: int, batchnorm: bool = True) -> nn.ModuleDict:
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {name: nn.Conv2d(D, outputs, 1)}
    if batchnorm:
        norm = nn.BatchNorm2d(D)
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 2)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 3)
        parts["batchnorm_layer"] = norm
    return nn.ModuleDict(parts).eval()


def saved(path: Path, modules: nn.Module, prefix: str = "") -> Path:
    state = {prefix + key: value for key, value in modules.state_dict().items()}
    torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 40000}, path)
    return path


def maps() -> Tensor:
    return torch.randn(2, 3, 4, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prefix", ["segmentation_model.1.", "module.segmentation_model.1."])
@pytest.mark.parametrize("batchnorm", [True, False])
def test_segmentation(prefix: str, batchnorm: bool, tmp_path: Path) -> None:
    modules = official("conv", K, batchnorm)
    loaded = load_head(saved(tmp_path / "head.pth", modules, prefix))
    assert (loaded.kind, loaded.notes) == ("linear_segmenter", (f"reads the last block, {D} channels",))
    assert isinstance(loaded.head, LinearSegmenter)
    x = maps().permute(0, 3, 1, 2)
    x = modules["conv"](modules["batchnorm_layer"](x) if batchnorm else x)
    torch.testing.assert_close(
        loaded.head(maps())[0], F.interpolate(x, size=(48, 64), mode="bilinear"), atol=1e-5, rtol=1e-5
    )


def test_depth(tmp_path: Path) -> None:
    modules = official("conv_depth", BINS)
    loaded = load_head(saved(tmp_path / "head.pth", modules))
    assert isinstance(loaded.head, LinearDepth)
    assert "depth range 0.001 to 10 m, as for NYU" in loaded.notes[0]
    x = modules["conv_depth"](modules["batchnorm_layer"](maps().permute(0, 3, 1, 2)))
    weights = x.relu() + 0.1
    bins = torch.linspace(0.001, 10.0, BINS)[:, None, None]
    expected = (weights / weights.sum(1, keepdim=True) * bins).sum(1, keepdim=True)
    expected = F.interpolate(expected, size=(48, 64), mode="bilinear")
    torch.testing.assert_close(loaded.head(maps())[0], expected, atol=1e-5, rtol=1e-5)


def without(modules: nn.Module, key: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in modules.state_dict().items() if name != key}


@pytest.mark.parametrize(
    ("tree", "error", "words"),
    [
        (without(official("conv", K), "conv.bias"), KeyMismatch, "conv.bias"),
        (without(official("conv", K), "conv.weight"), CheckpointError, "is no 1x1 convolution"),
        ({"conv.weight": torch.zeros(2, 3, 3, 3)}, CheckpointError, "is no 1x1 convolution"),
        (official("other", K).state_dict(), ForeignCheckpoint, "is not a known head"),
    ],
)
def test_broken_files(tree: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
    torch.save({"model": tree} if error is not ForeignCheckpoint else tree, tmp_path / "head.pth")
    with pytest.raises(error, match=words) as caught:
        load_head(tmp_path / "head.pth")
    assert "\n" not in str(caught.value)
