"""Writing checkpoints: exact both ways, complete or not at all, and loaded by the libraries they are for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import TWINS, official_state, write_official
from safetensors.torch import load_file

from dinov3_ref.checkpoints import (
    Checkpoint,
    build_model,
    convert,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.errors import CheckpointError
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.released import ARCHITECTURES
from dinov3_ref.torchvision_shim import import_torchvision

PIXELS = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def closed_key_bias(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, with k's bias itself zero and not only its mask: what every layout can carry."""
    state = dict(checkpoint.state)
    for key in state:
        if key.endswith("qkv.bias"):
            state[key] = state[key] * state[f"{key}_mask"]
    return replace(checkpoint, state=state)


def same(one: Checkpoint, other: Checkpoint, *, but: tuple[str, ...] = ()) -> bool:
    assert one.state.keys() == other.state.keys()
    kept = [key for key in one.state if not key.startswith(but)] if but else list(one.state)
    return all(torch.equal(one.state[key], other.state[key]) for key in kept)


@pytest.mark.parametrize("twin", ["mlp", "swiglu"])
@pytest.mark.parametrize("name", ["b.pth", "b.safetensors"])
def test_official_to_hf_and_back_is_exact(tmp_path: Path, twin: str, name: str) -> None:
    checkpoint = closed_key_bias(random_checkpoint(TWINS[twin]))
    official = write_official(tmp_path / "a.pth", checkpoint)
    convert(official, "hf", tmp_path / "hf")
    convert(tmp_path / "hf", "official", tmp_path / name)
    assert same(load_checkpoint(tmp_path / name), checkpoint)


def test_official_to_timm_and_back_loses_the_mask_token_alone(tmp_path: Path) -> None:
    checkpoint = closed_key_bias(random_checkpoint(TWINS["swiglu"]))
    convert(write_official(tmp_path / "a.pth", checkpoint), "timm", tmp_path / "timm")
    convert(tmp_path / "timm", "official", tmp_path / "b.pth")
    assert same(load_checkpoint(tmp_path / "b.pth"), checkpoint, but=("mask_token",))


@pytest.mark.parametrize("layout", ["hf", "timm"])
def test_other_layouts_through_official_and_back_are_byte_exact(tmp_path: Path, layout: str) -> None:
    first = save_checkpoint(random_checkpoint(TWINS["mlp"]), layout, tmp_path / "first")
    convert(tmp_path / "first", "official", tmp_path / "between.safetensors")
    second = convert(tmp_path / "between.safetensors", layout, tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_hf_to_timm_and_back(tmp_path: Path) -> None:
    checkpoint = closed_key_bias(random_checkpoint(TWINS["mlp"]))
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    convert(tmp_path / "hf", "timm", tmp_path / "timm")
    convert(tmp_path / "timm", "hf", tmp_path / "again")
    assert same(load_checkpoint(tmp_path / "again"), checkpoint, but=("mask_token",))


def test_satellite_vit_large_gets_its_extra_norm_back(tmp_path: Path) -> None:
    """A ViT-L/SAT shape in one block: `local_cls_norm` is how official loaders tell it."""
    from dinov3_ref.checkpoints.load import STAND_INS

    assert "local_cls_norm.weight" in STAND_INS
    checkpoint = replace(random_checkpoint("vit_small"), dataset="sat493m")
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    assert "local_cls_norm.weight" not in load_checkpoint(tmp_path / "hf").state


def test_official_files_hold_bf16_periods_as_released(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TWINS["mlp"])
    save_checkpoint(checkpoint, "official", tmp_path / "a.pth")
    stored = torch.load(tmp_path / "a.pth", weights_only=True)
    assert stored["rope_embed.periods"].dtype == torch.bfloat16
    assert stored.keys() == official_state(checkpoint).keys()


def test_exact_periods_are_not_rounded_on_the_way(tmp_path: Path) -> None:
    save_checkpoint(random_checkpoint(TWINS["mlp"]), "hf", tmp_path / "hf")
    convert(tmp_path / "hf", "official", tmp_path / "a.pth", periods="fp32")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["rope_embed.periods"].dtype == torch.float32


def test_torch_file_holds_no_more_than_its_tensors(tmp_path: Path) -> None:
    """A third of a fused tensor must not drag the whole of it into the file."""
    path = save_checkpoint(random_checkpoint(TWINS["mlp"]), "hf", tmp_path / "hf")[0]
    official = convert(path, "official", tmp_path / "a.pth")[0]
    assert official.stat().st_size < 1.1 * path.stat().st_size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_of_the_file_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = random_checkpoint(TWINS["mlp"])
    state = {k: t if k.startswith("rope") else t.to(dtype) for k, t in checkpoint.state.items()}
    path = save_checkpoint(replace(checkpoint, state=state), "hf", tmp_path / "hf")[0]
    assert {tensor.dtype for tensor in load_file(path).values()} == {dtype}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )


def test_shards_hold_every_tensor_once(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TWINS["swiglu"])
    written = save_checkpoint(checkpoint, "hf", tmp_path / "hf", max_shard_bytes=300_000)
    shards = [path for path in written if path.suffix == ".safetensors"]
    keys = [key for path in shards for key in load_file(path)]
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert sorted(keys) == sorted(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(t.nbytes for p in shards for t in load_file(p).values())
    assert all(sum(t.nbytes for t in load_file(path).values()) <= 300_000 for path in shards)
    assert same(load_checkpoint(tmp_path / "hf"), closed_key_bias(checkpoint))


# --- output: there as a whole, or not at all ---


def test_existing_output_is_left_alone(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TWINS["mlp"])
    (tmp_path / "a.pth").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already; .*--overwrite"):
        save_checkpoint(checkpoint, "official", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_text() == "mine"
    save_checkpoint(checkpoint, "official", tmp_path / "a.pth", overwrite=True)
    assert load_checkpoint(tmp_path / "a.pth").layout == "official"


def test_overwriting_a_directory_replaces_all_of_it(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TWINS["mlp"])
    save_checkpoint(checkpoint, "hf", tmp_path / "out", max_shard_bytes=300_000)
    save_checkpoint(checkpoint, "timm", tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "model.safetensors", "out"]


def test_a_file_gives_way_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    save_checkpoint(random_checkpoint(TWINS["mlp"]), "hf", tmp_path / "out", overwrite=True)
    assert load_checkpoint(tmp_path / "out").layout == "hf"


def test_a_directory_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.tex"):
        save_checkpoint(random_checkpoint(TWINS["mlp"]), "hf", tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_source_may_be_overwritten_by_its_own_conversion(tmp_path: Path) -> None:
    """The source is memory-mapped while the output is written."""
    path = save_checkpoint(random_checkpoint(TWINS["mlp"]), "official", tmp_path / "a.safetensors")[0]
    before = path.read_bytes()
    convert(path, "official", path, overwrite=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("to", ["hf", "official"])
def test_nothing_is_left_of_a_failed_run(tmp_path: Path, monkeypatch, to) -> None:
    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", no_room)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        save_checkpoint(random_checkpoint(TWINS["mlp"]), to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown layout 'onnx'; wanted one of hf, timm, official"):
        save_checkpoint(random_checkpoint(TWINS["mlp"]), "onnx", tmp_path / "out")  # type: ignore[arg-type]


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
    checkpoint = random_checkpoint(replace(TWINS["mlp"], **change))
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(checkpoint, layout, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_stored_periods_of_another_kind_are_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(TWINS["mlp"])
    state = {**checkpoint.state, "rope_embed.periods": torch.arange(1.0, 17.0)}
    with pytest.raises(CheckpointError, match="RoPE periods from base 100"):
        save_checkpoint(replace(checkpoint, state=state), "hf", tmp_path / "out")


# --- the libraries themselves ---

MODELS: dict[str, str | ViTConfig] = {
    "vit_small": "vit_small",
    "vit_small_plus": "vit_small_plus",
    "mlp": TWINS["mlp"],
    "swiglu": TWINS["swiglu"],
    "seven_b": TWINS["seven_b"],
    "other base and grid": replace(TWINS["mlp"], pos_embed_rope_base=50.0, patch_size=8, in_chans=3),
}
# Relative Frobenius error of all normed tokens, fp32; measured 5.3e-7 (hf) and 0 (timm) at worst.
TOLERANCE = 2e-6


@contextmanager
def other_peoples_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def our_tokens(path: Path) -> torch.Tensor:
    with torch.no_grad():
        out = build_model(load_checkpoint(path, periods="fp32")).forward_features(PIXELS)
    return torch.cat(
        (out["x_norm_clstoken"][:, None], out["x_storage_tokens"], out["x_norm_patchtokens"]), dim=1
    )


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_what_we_write(tmp_path: Path, name: str) -> None:
    save_checkpoint(random_checkpoint(MODELS[name]), "hf", tmp_path / "hf")
    import_torchvision()
    with other_peoples_warnings():
        from transformers import AutoModel

        model, report = AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        got = model.eval()(PIXELS).last_hidden_state
    assert relative_error(got, our_tokens(tmp_path / "hf")) < TOLERANCE


def test_transformers_reads_our_preprocessor(tmp_path: Path) -> None:
    save_checkpoint(replace(random_checkpoint(TWINS["mlp"]), dataset="sat493m"), "hf", tmp_path / "hf")
    import_torchvision()
    with other_peoples_warnings():
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert type(processor).__name__.startswith("DINOv3ViTImageProcessor")
    assert tuple(processor.image_mean) == (0.430, 0.411, 0.296)
    assert dict(processor.size) == {"height": 224, "width": 224}


@pytest.mark.parametrize("name", MODELS)
def test_timm_loads_what_we_write(tmp_path: Path, name: str) -> None:
    save_checkpoint(random_checkpoint(MODELS[name]), "timm", tmp_path / "timm")
    import_torchvision()
    with other_peoples_warnings():
        import timm

        model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    with torch.no_grad():
        got = model.eval().forward_features(PIXELS)
    assert relative_error(got, our_tokens(tmp_path / "timm")) < TOLERANCE


@pytest.mark.parametrize("biased", [True, False])
def test_timm_loads_the_file_by_its_own_model_name(tmp_path: Path, biased: bool) -> None:
    checkpoint = random_checkpoint("vit_small")
    if not biased:  # as released
        zeros = {k: torch.zeros_like(t) for k, t in checkpoint.state.items() if k.endswith("qkv.bias")}
        checkpoint = replace(checkpoint, state={**checkpoint.state, **zeros})
    path = save_checkpoint(checkpoint, "timm", tmp_path / "timm")[0]
    name = json.loads((tmp_path / "timm" / "config.json").read_text())["architecture"]
    assert name == "vit_small_patch16_dinov3" + ("_qkvb" if biased else "")
    import_torchvision()
    with other_peoples_warnings():
        import timm

        by_path = timm.create_model(name, checkpoint_path=str(path))
        by_file = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    for model in (by_path, by_file):
        state = model.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in load_file(path).items())


@pytest.mark.parametrize("name", ["vit_small", "swiglu"])
def test_we_load_what_transformers_writes(tmp_path: Path, name: str) -> None:
    save_checkpoint(random_checkpoint(MODELS[name]), "hf", tmp_path / "ours")
    import_torchvision()
    with other_peoples_warnings():
        from transformers import AutoModel

        model = AutoModel.from_pretrained(tmp_path / "ours")
        model.save_pretrained(tmp_path / "theirs")
        torch.save(model.state_dict(), tmp_path / "in_memory.pth")
    ours = load_checkpoint(tmp_path / "ours")
    assert same(load_checkpoint(tmp_path / "theirs"), ours)
    assert same(load_checkpoint(tmp_path / "in_memory.pth"), ours)


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch.startswith("vit_small")])
def test_we_load_what_timm_writes(tmp_path: Path, arch: str) -> None:
    save_checkpoint(random_checkpoint(arch), "timm", tmp_path / "timm")
    import_torchvision()
    with other_peoples_warnings():
        import timm

        model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
        torch.save({"state_dict": model.state_dict()}, tmp_path / "theirs.pth")
    loaded = load_checkpoint(tmp_path / "theirs.pth", arch=arch)
    assert loaded.layout == "timm"
    assert same(loaded, load_checkpoint(tmp_path / "timm"))
