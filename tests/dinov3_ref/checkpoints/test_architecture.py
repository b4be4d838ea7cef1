"""From shapes to a configuration and its name, and what --arch is held to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dinov3_ref.checkpoints import (
    expected_shapes,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.checkpoints.architecture import (
    NORMALIZATION,
    infer_config,
    infer_dataset,
    name_architecture,
    sidecar_normalization,
)
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS
from dinov3_ref.errors import ArchMismatch, ConfigError
from dinov3_ref.models.released import RELEASED, VITS
from tests.support.checkpoint_files import TINY_VITS, write_official


@pytest.fixture(scope="module")
def vit_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official file of a whole ViT-S: 86 MB, so once."""
    return write_official(tmp_path_factory.mktemp("released") / "a.pth", random_checkpoint("vit_small"))


@pytest.mark.parametrize(
    "asked",
    [
        "vit_small",
        "dinov3_vits16",
        "facebook/dinov3-vits16-pretrain-lvd1689m",
        "vit_small_patch16_dinov3.lvd1689m",
        "timm/vit_small_patch16_dinov3.lvd1689m",
    ],
)
def test_every_name_of_an_architecture_is_accepted(vit_small: Path, asked: str) -> None:
    assert load_checkpoint(vit_small, arch=asked).arch == "vit_small"


def test_another_architecture_is_refused(vit_small: Path) -> None:
    with pytest.raises(ArchMismatch, match=r"holds vit_small \(embed_dim 384.*but vit_base was asked for"):
        load_checkpoint(vit_small, arch="vit_base")
    with pytest.raises(ConfigError, match="unknown architecture 'vit_smal'"):
        load_checkpoint(vit_small, arch="vit_smal")


def test_custom_shapes_match_no_name(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.pth", random_checkpoint(TINY_VITS["mlp"]))
    with pytest.raises(ArchMismatch, match=r"holds custom .*leave --arch out"):
        load_checkpoint(path, arch="vit_small")


def test_name_with_a_data_set_is_held_to_it(tmp_path: Path) -> None:
    checkpoint = replace(random_checkpoint("vit_small"), dataset="sat493m")
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    with pytest.raises(ArchMismatch, match="sat493m"):
        load_checkpoint(tmp_path / "hf", arch="facebook/dinov3-vits16-pretrain-lvd1689m")
    assert load_checkpoint(tmp_path / "hf", arch="vit_small").dataset == "sat493m"


@pytest.mark.parametrize("row", [row for row in RELEASED if row.arch in VITS], ids=lambda row: row.name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_released_shapes_give_the_tables_own_configuration(row, layout) -> None:
    """The 7B is the one whose ratio and FFN name cannot be read off the tensors."""
    official = layout.name == "official"
    inferred = infer_config(layout, layout.shapes(row.config), {}, "file")
    arch, config = name_architecture(inferred, biases_may_lack=not official)
    untied = official and row.config.untie_global_and_local_cls_norm
    assert arch == row.arch
    assert config == replace(row.config, untie_global_and_local_cls_norm=untied)


@pytest.mark.parametrize("arch", VITS)
def test_every_architecture_is_named_from_its_shapes(arch: str) -> None:
    shapes = expected_shapes(VITS[arch])
    inferred = infer_config(LAYOUTS[-1], shapes, {}, "file")
    assert name_architecture(inferred, biases_may_lack=False) == (arch, VITS[arch])


def test_what_a_config_json_told_survives_the_naming() -> None:
    told = replace(VITS["vit_small"], pos_embed_rope_base=50.0, norm_layer="layernorm")
    assert name_architecture(told, biases_may_lack=True) == ("vit_small", told)


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
