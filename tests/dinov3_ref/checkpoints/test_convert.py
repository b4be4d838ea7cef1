"""Writing checkpoints: exact both ways, complete or not at all, and loaded by the libraries they are for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dinov3_ref.checkpoints import (
    Checkpoint,
    convert,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.errors import CheckpointError
from tests.support.checkpoint_files import TINY_VITS, official_state, same_state, write_official
from tests.support.images.photographs import pixels

PIXELS = pixels(("coffee", "chelsea"), 64, 96)


def closed_key_bias(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, with k's bias itself zero and not only its mask: what every layout can carry."""
    state = dict(checkpoint.state)
    for key in state:
        if key.endswith("qkv.bias"):
            state[key] = state[key] * state[f"{key}_mask"]
    return replace(checkpoint, state=state)


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
@pytest.mark.parametrize("name", ["b.pth", "b.safetensors"])
def test_official_to_hf_and_back_is_exact(tmp_path: Path, kind: str, name: str) -> None:
    checkpoint = closed_key_bias(random_checkpoint(TINY_VITS[kind]))
    official = write_official(tmp_path / "a.pth", checkpoint)
    convert(official, "hf", tmp_path / "hf")
    convert(tmp_path / "hf", "official", tmp_path / name)
    assert same_state(load_checkpoint(tmp_path / name), checkpoint)


def test_official_to_timm_and_back_loses_the_mask_token_alone(tmp_path: Path) -> None:
    checkpoint = closed_key_bias(random_checkpoint(TINY_VITS["swiglu"]))
    convert(write_official(tmp_path / "a.pth", checkpoint), "timm", tmp_path / "timm")
    convert(tmp_path / "timm", "official", tmp_path / "b.pth")
    assert same_state(load_checkpoint(tmp_path / "b.pth"), checkpoint, but="mask_token")


@pytest.mark.parametrize("layout", ["hf", "timm"])
def test_other_layouts_through_official_and_back_are_byte_exact(tmp_path: Path, layout: str) -> None:
    known = replace(random_checkpoint(TINY_VITS["mlp"]), dataset="lvd1689m")
    first = save_checkpoint(known, layout, tmp_path / "first")
    convert(tmp_path / "first", "official", tmp_path / "between.safetensors")
    second = convert(tmp_path / "between.safetensors", layout, tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_hf_to_timm_and_back(tmp_path: Path) -> None:
    checkpoint = closed_key_bias(random_checkpoint(TINY_VITS["mlp"]))
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    convert(tmp_path / "hf", "timm", tmp_path / "timm")
    convert(tmp_path / "timm", "hf", tmp_path / "again")
    assert same_state(load_checkpoint(tmp_path / "again"), checkpoint, but="mask_token")


def test_official_files_hold_bf16_periods_as_released(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_VITS["mlp"])
    save_checkpoint(checkpoint, "official", tmp_path / "a.pth")
    stored = torch.load(tmp_path / "a.pth", weights_only=True)
    assert stored["rope_embed.periods"].dtype == torch.bfloat16
    assert stored.keys() == official_state(checkpoint).keys()


def test_exact_periods_are_not_rounded_on_the_way(tmp_path: Path) -> None:
    save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", tmp_path / "hf")
    convert(tmp_path / "hf", "official", tmp_path / "a.pth", periods="fp32")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["rope_embed.periods"].dtype == torch.float32


def test_torch_file_holds_no_more_than_its_tensors(tmp_path: Path) -> None:
    """A slice of something big must not drag the whole of it into the file."""
    checkpoint = random_checkpoint(TINY_VITS["mlp"])
    size = sum(tensor.nbytes for tensor in checkpoint.state.values())
    sliced = {**checkpoint.state, "norm.weight": torch.ones(size)[:128]}
    path = save_checkpoint(replace(checkpoint, state=sliced), "official", tmp_path / "a.pth")[0]
    assert path.stat().st_size < 1.1 * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_of_the_file_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = random_checkpoint(TINY_VITS["mlp"])
    state = {k: t if k.startswith("rope") else t.to(dtype) for k, t in checkpoint.state.items()}
    path = save_checkpoint(replace(checkpoint, state=state), "hf", tmp_path / "hf")[0]
    assert {tensor.dtype for tensor in load_file(path).values()} == {dtype}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )


def test_shards_hold_every_tensor_once(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_VITS["swiglu"])
    written = save_checkpoint(checkpoint, "hf", tmp_path / "hf", max_shard_bytes=400_000)
    shards = [path for path in written if path.suffix == ".safetensors"]
    keys = [key for path in shards for key in load_file(path)]
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert sorted(keys) == sorted(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(t.nbytes for p in shards for t in load_file(p).values())
    assert all(sum(t.nbytes for t in load_file(path).values()) <= 400_000 for path in shards)
    assert same_state(load_checkpoint(tmp_path / "hf"), closed_key_bias(checkpoint))


def test_existing_output_is_left_alone(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_VITS["mlp"])
    (tmp_path / "a.pth").write_text("mine")
    with pytest.raises(CheckpointError, match=r"exists already; .*--overwrite"):
        save_checkpoint(checkpoint, "official", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_text() == "mine"
    save_checkpoint(checkpoint, "official", tmp_path / "a.pth", overwrite=True)
    assert load_checkpoint(tmp_path / "a.pth").layout == "official"


def test_overwriting_a_directory_replaces_all_of_it(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_VITS["mlp"])
    save_checkpoint(checkpoint, "hf", tmp_path / "out", max_shard_bytes=400_000)
    save_checkpoint(checkpoint, "timm", tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model.safetensors", "out"]


def test_a_file_gives_way_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", tmp_path / "out", overwrite=True)
    assert load_checkpoint(tmp_path / "out").layout == "hf"


def test_a_directory_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.tex"):
        save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_source_may_be_overwritten_by_its_own_conversion(tmp_path: Path) -> None:
    """The source is memory-mapped while the output is written."""
    path = save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "official", tmp_path / "a.safetensors")[0]
    before = path.read_bytes()
    convert(path, "official", path, overwrite=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("to", ["hf", "official"])
def test_nothing_is_left_of_a_failed_run(tmp_path: Path, monkeypatch, to) -> None:
    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", no_room)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown layout 'onnx'; wanted one of hf, timm, official"):
        save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "onnx", tmp_path / "out")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        ("hf", {"untie_cls_and_patch_norms": True}, "cls_norm"),
        ("hf", {"layerscale_init": None}, "LayerScale"),
        ("hf", {"n_storage_tokens": 0}, "storage tokens"),
        ("hf", {"norm_layer": "rmsnorm"}, "norm 'rmsnorm'"),
        ("timm", {"norm_layer": "layernorm"}, "norm 'layernorm'"),
        ("timm", {"ffn_bias": False}, "have biases"),
        ("timm", {"mask_k_bias": False}, "bias on k"),
        ("hf", {"pos_embed_rope_normalize_coords": "max"}, "RoPE coordinates"),
        (
            "hf",
            {
                "pos_embed_rope_base": None,
                "pos_embed_rope_min_period": 1.0,
                "pos_embed_rope_max_period": 9.0,
            },
            "RoPE periods",
        ),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, layout, change, words: str) -> None:
    checkpoint = random_checkpoint(replace(TINY_VITS["mlp"], **change))
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(checkpoint, layout, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_stored_periods_of_another_kind_are_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TINY_VITS["mlp"])
    state = {**checkpoint.state, "rope_embed.periods": torch.arange(1.0, 17.0)}
    with pytest.raises(CheckpointError, match="RoPE periods from base 100"):
        save_checkpoint(replace(checkpoint, state=state), "hf", tmp_path / "out")


@pytest.mark.parametrize(
    "options",
    [
        {"norm_layer": "layernorm"},
        {"pos_embed_rope_normalize_coords": "max"},
        {"pos_embed_rope_dtype": "bf16"},
        {"pos_embed_rope_base": None, "pos_embed_rope_min_period": 0.5, "pos_embed_rope_max_period": 9.0},
    ],
)
def test_an_official_safetensors_file_keeps_what_tensors_do_not_show(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    checkpoint = random_checkpoint(replace(TINY_VITS["swiglu"], **options))
    checkpoint = replace(checkpoint, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    loaded = load_checkpoint(save_checkpoint(checkpoint, "official", tmp_path / "a.safetensors")[0])
    assert loaded.config == checkpoint.config
    assert (loaded.mean, loaded.std) == (checkpoint.mean, checkpoint.std)
    if options.keys() & {"norm_layer", "pos_embed_rope_normalize_coords"}:
        with pytest.raises(CheckpointError, match=r"which a \.pth file .* cannot say; write a \.safetensors"):
            save_checkpoint(checkpoint, "official", tmp_path / "a.pth")
