"""Which images a checkpoint was trained on, by every kind of evidence there is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.dataset import NORMALIZATION, infer_dataset, sidecar_normalization
from dinov3_ref.models.released import RELEASED
from tests.support.checkpoint_files import TINY_VITS

NO_HASH = "f" * 64


@pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.name)
def test_a_released_file_is_known_by_its_hash_whatever_its_name(row) -> None:
    sha256 = row.hash_prefix + "0" * 56
    assert infer_dataset("renamed.pth", sha256, None, row.arch, None) == (row.dataset, None)


@pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.name)
def test_official_file_names_tell(row) -> None:
    assert infer_dataset(f"/some/where/{row.file_stem}.pth", NO_HASH, None, row.arch, None) == (
        row.dataset,
        None,
    )
    assert infer_dataset(f"copy-{row.hash_prefix}.pth", NO_HASH, None, row.arch, None) == (row.dataset, None)


@pytest.mark.parametrize("dataset", NORMALIZATION)
def test_normalisation_beats_the_name(dataset: str) -> None:
    found = infer_dataset("lvd1689m-or-so.pth", NO_HASH, NORMALIZATION[dataset], "vit_large", None)
    assert found == (dataset, None)


def test_foreign_normalisation_is_noted() -> None:
    half = (0.5, 0.5, 0.5)
    dataset, note = infer_dataset("model.safetensors", NO_HASH, (half, half), "vit_large", None)
    assert dataset is None
    assert "not one of DINOv3's" in str(note)


@pytest.mark.parametrize(
    ("arch", "untied", "dataset"),
    [
        ("vit_large", True, "sat493m"),
        ("vit_large", False, "lvd1689m"),
        ("vit_large", None, None),
        ("vit_7b", True, None),
        ("vit_small", False, "lvd1689m"),
        ("vit_giant2", False, None),
        ("custom", False, None),
    ],
)
def test_shapes_tell_where_only_one_release_has_them(
    arch: str, untied: bool | None, dataset: str | None
) -> None:
    found, note = infer_dataset("model.pth", NO_HASH, None, arch, untied)
    assert found == dataset
    assert (note is None) == (arch in ("vit_giant2", "custom"))


def test_normalisation_of_both_libraries_is_read() -> None:
    mean, std = NORMALIZATION["sat493m"]
    processor = {"preprocessor_config.json": {"image_mean": list(mean), "image_std": list(std)}}
    timm = {"config.json": {"pretrained_cfg": {"mean": list(mean), "std": list(std)}}}
    assert sidecar_normalization(processor) == sidecar_normalization(timm) == (mean, std)
    for nonsense in ({}, {"config.json": {"pretrained_cfg": {"mean": "red", "std": [1]}}}):
        assert sidecar_normalization(nonsense) is None


@pytest.mark.parametrize("layout", ["hf", "timm"])
def test_satellite_normalisation_survives_both_layouts(tmp_path: Path, layout: str) -> None:
    checkpoint = replace(random_checkpoint(TINY_VITS["mlp"]), dataset="sat493m")
    save_checkpoint(checkpoint, layout, tmp_path / "out")
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.dataset == "sat493m"
    assert (loaded.mean, loaded.std) == NORMALIZATION["sat493m"]


def test_normalisation_of_ones_own_is_carried(tmp_path: Path) -> None:
    own = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    checkpoint = replace(random_checkpoint(TINY_VITS["mlp"]), mean=own[0], std=own[1])
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())["image_mean"] == [
        0.1,
        0.2,
        0.3,
    ]
    loaded = load_checkpoint(tmp_path / "hf")
    assert (loaded.mean, loaded.std, loaded.dataset) == (*own, None)
