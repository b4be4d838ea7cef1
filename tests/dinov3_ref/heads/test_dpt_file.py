"""CHMv2 against transformers' own class, and the released head files by their names and shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import build_model, load_checkpoint
from dinov3_ref.errors import CheckpointError, KeyMismatch
from dinov3_ref.heads import DPTDepth, HeadedBackbone, head_beside, load_head
from tests.support.canopy import save_canopy_model
from tests.support.images.photographs import pixels

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers
SHAPES = Path(__file__).parents[2] / "data" / "chmv2_head_shapes.json"  # of the released file
LIMIT = 2e-6  # relative error in fp32; measured 2e-7


@pytest.fixture(scope="module")
def canopy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("chmv2")
    return folder, save_canopy_model(folder)


def ours(folder: Path) -> HeadedBackbone:
    checkpoint = load_checkpoint(folder)
    loaded = head_beside(checkpoint)
    assert loaded is not None
    return HeadedBackbone(build_model(checkpoint), loaded.head)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (80, 112)])
def test_computes_what_transformers_does(canopy: tuple[Path, nn.Module], size: tuple[int, int]) -> None:
    """The last size has an odd patch grid in both directions: the map is larger than the image."""
    folder, theirs = canopy
    x = pixels(["coffee", "astronaut"], *size)
    with torch.no_grad():
        wanted = theirs(x).predicted_depth
        found = ours(folder)(x)["depth"]
    assert found.shape == (2, 1, *wanted.shape[1:])
    assert wanted.max() > 1.2 * wanted.min()
    assert float((found[:, 0] - wanted).norm() / wanted.norm()) < LIMIT


@pytest.mark.parametrize(
    "options",
    [
        {"bins_strategy": "log", "norm_strategy": "softmax"},
        {"bins_strategy": "linear", "norm_strategy": "sigmoid", "readout_type": "add"},
        {"norm_strategy": "linear", "readout_type": "ignore", "max_depth": 40.0},
    ],
)
def test_other_bins_norms_and_readouts(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = save_canopy_model(tmp_path, **options)
    x = pixels(["coffee"], 64, 96)
    with torch.no_grad():
        wanted = theirs(x).predicted_depth
        found = ours(tmp_path)(x)["depth"][:, 0]
    assert float((found - wanted).norm() / wanted.norm()) < LIMIT


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"reassemble_factors": [2, 1, 1, 0.5]}, "says reassemble_factors"),
        ({"readout_type": "concat"}, "readout 'concat' is unknown"),
        ({"bins_strategy": "cubic"}, "bins 'cubic'"),
    ],
)
def test_refuses_other_options(
    canopy: tuple[Path, nn.Module], tmp_path: Path, edit: dict[str, Any], words: str
) -> None:
    config = json.loads((canopy[0] / "config.json").read_text()) | edit
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((canopy[0] / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=words) as caught:
        ours(tmp_path)
    assert "\n" not in str(caught.value)


def released() -> dict[str, Tensor]:
    shapes = json.loads(SHAPES.read_text())
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) / 8 for name, shape in shapes.items()}


def test_the_released_canopy_head(tmp_path: Path) -> None:
    torch.save(released(), tmp_path / "dinov3_vitl16_chmv2_dpt_head-3703d643.pth")
    loaded = load_head(tmp_path / "dinov3_vitl16_chmv2_dpt_head-3703d643.pth")
    head = loaded.head
    assert isinstance(head, DPTDepth)
    assert head.inputs == (*(f"layer_{i}" for i in (5, 11, 17, 23)), *(f"cls_{i}" for i in (5, 11, 17, 23)))
    assert head.embed_dim == 1024
    assert loaded.notes == ("depth range 0.001 to 96 m, as in the released head",)
    assert head.settings == {"align_corners": True}
    config = head.config()
    assert (config["bins"], config["norm"], config["max_depth"]) == ("mixlog", "mixlog", 96.0)


def test_a_head_without_a_tensor_is_refused(tmp_path: Path) -> None:
    tensors = released()
    del tensors["reassemble_blocks.readout_projects.2.0.bias"]
    torch.save(tensors, tmp_path / "head.pth")
    with pytest.raises(KeyMismatch, match=r"readout_projects\.2\.0\.bias"):
        load_head(tmp_path / "head.pth")
