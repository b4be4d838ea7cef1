"""transformers and timm load what we write, compute what we compute, and we load what they write."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinov3_ref.checkpoints import (
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.released import ARCHITECTURES
from dinov3_ref.torchvision_shim import import_torchvision
from tests.support.checkpoint_files import TINY_VITS, features, same_state
from tests.support.images.photographs import pixels

PIXELS = pixels(("coffee", "chelsea"), 64, 96)


MODELS: dict[str, str | ViTConfig] = {
    "vit_small": "vit_small",
    "vit_small_plus": "vit_small_plus",
    "mlp": TINY_VITS["mlp"],
    "swiglu": TINY_VITS["swiglu"],
    "7b": TINY_VITS["7b"],
    "other base and grid": replace(TINY_VITS["mlp"], pos_embed_rope_base=50.0, patch_size=8, in_chans=3),
}


# Relative Frobenius error of all normed tokens, fp32; measured 5.3e-7 (hf) and 0 (timm) at worst.
TOLERANCE = 2e-6


@contextmanager
def other_peoples_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def our_tokens(path: Path) -> torch.Tensor:
    """Both libraries compute with exact periods."""
    return features(load_checkpoint(path, periods="fp32"), PIXELS)


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
    save_checkpoint(replace(random_checkpoint(TINY_VITS["mlp"]), dataset="sat493m"), "hf", tmp_path / "hf")
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
    assert same_state(load_checkpoint(tmp_path / "theirs"), ours)
    assert same_state(load_checkpoint(tmp_path / "in_memory.pth"), ours)


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
    assert same_state(loaded, load_checkpoint(tmp_path / "timm"))
