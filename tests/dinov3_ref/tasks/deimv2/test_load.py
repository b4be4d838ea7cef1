"""Folders of transformers are loaded strictly; what is not supported is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinov3_ref.errors import ForeignCheckpoint, KeyMismatch
from tests.support.detectors import TINY, load_detector, make_detector, save_detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(make_detector(TINY), tmp_path_factory.mktemp("detector"))


def copy(folder: Path, to: Path, *, config: dict[str, Any] | None = None) -> Path:
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    described = json.loads((to / "config.json").read_text()) | (config or {})
    (to / "config.json").write_text(json.dumps(described))
    return to


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_facts(folder: Path) -> None:
    loaded = load_detector(folder)
    assert (loaded.kind, loaded.arch, loaded.layout, loaded.size) == ("deimv2", "custom", "hf", (160, 160))
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.notes == ()


def test_a_processor_that_does_not_normalise(folder: Path, tmp_path: Path) -> None:
    copied = copy(folder, tmp_path)
    processor = copied / "preprocessor_config.json"
    processor.write_text(json.dumps(json.loads(processor.read_text()) | {"do_normalize": False}))
    loaded = load_detector(copied)
    assert (loaded.mean, loaded.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_without_a_processor_it_is_as_the_released_ones(folder: Path, tmp_path: Path) -> None:
    copied = copy(folder, tmp_path)
    (copied / "preprocessor_config.json").unlink()
    loaded = load_detector(copied)
    assert (loaded.size, loaded.mean[0]) == ((640, 640), 0.485)


def test_an_eval_size_is_noted(folder: Path, tmp_path: Path) -> None:
    (note,) = load_detector(copy(folder, tmp_path, config={"eval_size": [640, 640]})).notes
    assert "no position embedding" in note


def test_copies_of_the_heads_beside_the_model_are_known(folder: Path, tmp_path: Path) -> None:
    def copy_heads(tensors: dict[str, torch.Tensor]) -> None:
        own = [key for key in tensors if "decoder.class_embed" in key or "decoder.bbox_embed" in key]
        tensors |= {key.removeprefix("model.decoder."): tensors[key].clone() for key in own}

    loaded = load_detector(edit(copy(folder, tmp_path), copy_heads))
    assert torch.equal(
        loaded.model.decoder.class_embed.weight, load_detector(folder).model.decoder.class_embed.weight
    )


def test_one_box_head_for_all_layers(tmp_path: Path) -> None:
    theirs = make_detector(TINY, share_bbox_head=True)
    ours = load_detector(save_detector(theirs, tmp_path)).model
    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(ours(image)[1], theirs(image).pred_boxes, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("model.decoder.class_embed.1.weight", "1 tensors missing"),
        (
            "model.encoder.fpn_blocks.0.csp_rep1.bottlenecks.0.conv2.norm.running_var",
            "conv2.norm.running_var",
        ),
        ("model.conv_encoder.backbone.layer.1.norm1.weight", "its backbone"),
    ],
)
def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(KeyMismatch, match=words):
        load_detector(edit(copy(folder, tmp_path), lambda tensors: tensors.pop(key)))


@pytest.mark.parametrize("key", ["model.decoder.extra.weight", "model.conv_encoder.backbone.extra.weight"])
def test_a_tensor_left_over_is_named(folder: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(KeyMismatch, match="1 left over"):
        load_detector(edit(copy(folder, tmp_path), lambda tensors: tensors.update({key: torch.ones(2)})))


def test_a_value_that_is_not_finite_is_refused(folder: Path, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.enc_output.0.weight"][0, 0] = torch.nan

    with pytest.raises(KeyMismatch, match="NaN"):
        load_detector(edit(copy(folder, tmp_path), spoil))


def test_another_backbone_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = copy(folder, tmp_path, config={"backbone_config": {"model_type": "hgnet_v2"}})
    with pytest.raises(ForeignCheckpoint, match="hgnet_v2 backbone; wanted one with DINOv3"):
        load_detector(changed)
