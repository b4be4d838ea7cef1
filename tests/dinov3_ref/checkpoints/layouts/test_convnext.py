"""ConvNeXt checkpoints: three layouts both ways, told apart and held strictly; names from docs/spec.md
3.2-3.4.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinov3_ref.checkpoints import (
    Checkpoint,
    build_model,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.checkpoints.architecture import name_architecture
from dinov3_ref.checkpoints.layouts.convnext import CONVNEXT_LAYOUTS, ConvNeXtLayout, infer_convnext
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS, detect_layout
from dinov3_ref.errors import ArchMismatch, CheckpointError, ForeignCheckpoint, KeyMismatch
from dinov3_ref.models.config import ConvNeXtConfig
from dinov3_ref.models.released import CONVNEXTS
from tests.support.checkpoint_files import same_state
from tests.support.tiny_models import tiny_convnext

TINY = tiny_convnext(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
LAYOUT_NAMES = ("hf", "timm", "official")

# official -> Hugging Face, timm
SPELLINGS = {
    "downsample_layers.0.0.weight": ("stages.0.downsample_layers.0.weight", "stem.0.weight"),
    "downsample_layers.0.1.bias": ("stages.0.downsample_layers.1.bias", "stem.1.bias"),
    "downsample_layers.3.0.weight": ("stages.3.downsample_layers.0.weight", "stages.3.downsample.0.weight"),
    "downsample_layers.2.1.bias": ("stages.2.downsample_layers.1.bias", "stages.2.downsample.1.bias"),
    "stages.2.1.gamma": ("stages.2.layers.1.gamma", "stages.2.blocks.1.gamma"),
    "stages.2.1.dwconv.weight": (
        "stages.2.layers.1.depthwise_conv.weight",
        "stages.2.blocks.1.conv_dw.weight",
    ),
    "stages.2.1.norm.bias": ("stages.2.layers.1.layer_norm.bias", "stages.2.blocks.1.norm.bias"),
    "stages.2.1.pwconv1.weight": (
        "stages.2.layers.1.pointwise_conv1.weight",
        "stages.2.blocks.1.mlp.fc1.weight",
    ),
    "stages.2.1.pwconv2.bias": ("stages.2.layers.1.pointwise_conv2.bias", "stages.2.blocks.1.mlp.fc2.bias"),
    "norm.weight": ("layer_norm.weight", "head.norm.weight"),
}


def layout_of(name: str) -> ConvNeXtLayout:
    return next(layout for layout in CONVNEXT_LAYOUTS if layout.name == name)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(TINY)


def write(checkpoint: Checkpoint, layout: str, folder: Path) -> Path:
    """A directory, or officially a file."""
    out = folder / ("convnext.pth" if layout == "official" else layout)
    save_checkpoint(checkpoint, layout, out)  # type: ignore[arg-type]
    return out


# ---- names and shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize("official", SPELLINGS)
def test_spelling(official: str) -> None:
    assert (layout_of("hf").spell(official), layout_of("timm").spell(official)) == SPELLINGS[official]
    assert layout_of("official").spell(official) == official


@pytest.mark.parametrize("layout", CONVNEXT_LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("arch", CONVNEXTS)
def test_released_shapes_give_the_tables_own_configuration(arch: str, layout: ConvNeXtLayout) -> None:
    keys = ["norms.3.weight", "norms.3.bias"]
    shapes = layout.shapes(CONVNEXTS[arch], keys)
    assert len(shapes) == {"tiny": 180, "small": 342, "base": 342, "large": 342}[arch.split("_")[1]] + (
        2 if layout.name == "official" else 0
    )
    inferred = infer_convnext(layout, shapes, {}, "file")
    assert name_architecture(inferred, biases_may_lack=True) == (arch, CONVNEXTS[arch])
    assert detect_layout(shapes.keys(), "file") is layout
    assert not any(vit.recognises(shapes.keys()) for vit in LAYOUTS)


# ---- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_round_trip_is_exact(tmp_path: Path, checkpoint: Checkpoint, layout: str) -> None:
    loaded = load_checkpoint(write(checkpoint, layout, tmp_path))
    assert (loaded.layout, loaded.arch, loaded.config) == (layout, "custom", TINY)
    assert loaded.notes == ()
    assert same_state(loaded, checkpoint)
    assert loaded.state["norms.3.weight"] is loaded.state["norm.weight"]


def test_from_layout_to_layout(tmp_path: Path, checkpoint: Checkpoint) -> None:
    loaded = checkpoint
    for step, layout in enumerate(("hf", "timm", "official", "timm", "hf")):
        loaded = load_checkpoint(write(loaded, layout, tmp_path / str(step)))
    assert same_state(loaded, checkpoint)


def test_safetensors_hold_the_norm_twice(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """The format wants each tensor in memory of its own."""
    path = save_checkpoint(checkpoint, "official", tmp_path / "convnext.safetensors")[0]
    assert {"norm.weight", "norms.3.weight"} <= load_file(path).keys()
    assert same_state(load_checkpoint(path), checkpoint)


def test_without_layer_scale(tmp_path: Path) -> None:
    plain = random_checkpoint(tiny_convnext(layer_scale_init_value=0.0))
    for layout in ("timm", "official"):
        loaded = load_checkpoint(write(plain, layout, tmp_path))
        assert loaded.config.layer_scale_init_value == 0  # type: ignore[union-attr]
        assert same_state(loaded, plain)
    with pytest.raises(CheckpointError, match=r"the hf layout cannot hold .*: it needs LayerScale"):
        write(plain, "hf", tmp_path)


def test_an_official_file_may_lack_the_second_norm(tmp_path: Path, checkpoint: Checkpoint) -> None:
    state = {key: tensor for key, tensor in checkpoint.state.items() if not key.startswith("norms.")}
    torch.save(state, tmp_path / "convnext.pth")
    assert same_state(load_checkpoint(tmp_path / "convnext.pth"), checkpoint)


PREFIXES: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "teacher": lambda state: {"teacher": {f"backbone.{key}": tensor for key, tensor in state.items()}},
    "ddp": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "a run": lambda state: {
        **{f"model.teacher.backbone.{key}": tensor for key, tensor in state.items()},
        **{f"model.student.backbone.{key}": tensor + 1 for key, tensor in state.items()},
        "model.teacher.dino_head.last_layer.weight": torch.zeros(2, 2),
    },
    "torch.compile": lambda state: {f"_orig_mod.{key}": tensor for key, tensor in state.items()},
}


@pytest.mark.parametrize("name", PREFIXES)
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_wrapped_files(tmp_path: Path, checkpoint: Checkpoint, layout: str, name: str) -> None:
    state = layout_of(layout).from_official(checkpoint.state, TINY)
    torch.save(PREFIXES[name](state), tmp_path / "wrapped.pth")
    loaded = load_checkpoint(tmp_path / "wrapped.pth")
    assert loaded.layout == layout
    assert same_state(loaded, checkpoint)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_transformers_model_in_memory(tmp_path: Path, checkpoint: Checkpoint, prefix: str) -> None:
    """transformers 5 keeps the stages one level deeper than its files do (docs/spec.md 3.3)."""
    state = layout_of("hf").from_official(checkpoint.state, TINY)
    deeper = {key.replace("stages.", "model.stages.", 1): tensor for key, tensor in state.items()}
    torch.save({f"{prefix}{key}": tensor for key, tensor in deeper.items()}, tmp_path / "memory.pth")
    loaded = load_checkpoint(tmp_path / "memory.pth")
    assert loaded.layout == "hf"
    assert same_state(loaded, checkpoint)


# ---- strictness ----------------------------------------------------------------------------------


def cut(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({key: state[key][:1].clone()})


def drop(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(key)


def add(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({key: torch.zeros(2)})


# layout, what happens to the file, what is said
BROKEN: dict[str, tuple[str, Callable[[dict[str, Tensor]], object], str]] = {
    "a bias is missing": (
        "official",
        drop("stages.2.0.pwconv1.bias"),
        r"1 tensors missing.*pwconv1\.bias expected \[96\]",
    ),
    "a gamma is missing": (
        "hf",
        drop("stages.2.layers.1.gamma"),
        r"stages\.2\.layers\.1\.gamma expected \[24\] found nothing",
    ),
    "another module": ("timm", add("gate.fc.weight"), r"1 left over.*gate\.fc\.weight expected nothing"),
    "a kernel is cut": (
        "timm",
        cut("stages.0.blocks.0.conv_dw.weight"),
        r"expected \[8, 1, 7, 7\] found \[1, 1, 7, 7\]",
    ),
    "no downsampling": (
        "official",
        drop("downsample_layers.2.1.weight"),
        r"downsample_layers\.2\.1\.weight should be a tensor of 4",
    ),
    "a stage is missing": (
        "hf",
        lambda state: [state.pop(k) for k in [*state] if k.startswith("stages.3.layers")],
        r"block indices up to -1 in stage 3.*wanted stages\.3\.layers\.0 onwards",
    ),
    "a block far away": ("official", add("stages.1.99999.gamma"), r"block indices up to 99999 in stage 1"),
    "two norms": (
        "official",
        lambda state: state.update({"norms.3.bias": state["norm.bias"] + 1}),
        r"norms\.3\.bias and norm\.bias differ",
    ),
    "not finite": (
        "timm",
        lambda state: state["stem.0.bias"].fill_(float("nan")),
        r"stem\.0\.bias holds NaN",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path: Path, checkpoint: Checkpoint, name: str) -> None:
    layout, change, words = BROKEN[name]
    state = {k: t.clone() for k, t in layout_of(layout).from_official(checkpoint.state, TINY).items()}
    change(state)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(KeyMismatch, match=words) as caught:
        load_checkpoint(tmp_path / "broken.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"model_type": "convnext"}, ForeignCheckpoint, "model_type 'convnext'; wanted 'dinov3_convnext'"),
        ({"layer_norm_eps": 1e-5}, CheckpointError, "layer_norm_eps 1e-05; wanted 1e-06"),
        ({"hidden_act": "silu"}, CheckpointError, "hidden_act 'silu'; wanted 'gelu'"),
        (
            {"depths": [3, 3, 9, 3]},
            ArchMismatch,
            r"holds depths \[1, 1, 2, 1\], config.json says \[3, 3, 9, 3\]",
        ),
        ({"hidden_sizes": [8, 16, 24, 48]}, ArchMismatch, "holds dims"),
    ],
)
def test_a_config_json_that_says_otherwise(
    tmp_path: Path, checkpoint: Checkpoint, change: dict[str, Any], kind: type[Exception], words: str
) -> None:
    path = write(checkpoint, "hf", tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(kind, match=words):
        load_checkpoint(tmp_path / "hf")


def test_another_architecture_was_asked_for(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = write(checkpoint, "official", tmp_path)
    with pytest.raises(ArchMismatch, match=r"holds custom \(depths \[1, 1, 2, 1\], dims \[8, 16, 24, 32\]\)"):
        load_checkpoint(path, arch="convnext_tiny")
    with pytest.raises(ArchMismatch, match="but vit_small was asked for"):
        load_checkpoint(path, arch="vit_small")


# ---- the rest ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_released_architecture_is_told_from_a_file(tmp_path: Path) -> None:
    tiny = random_checkpoint("convnext_tiny")
    for layout in LAYOUT_NAMES:
        loaded = load_checkpoint(write(tiny, layout, tmp_path), arch="dinov3_convnext_tiny")
        assert (loaded.arch, loaded.dataset) == ("convnext_tiny", "lvd1689m")
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["architecture"] == "convnext_tiny"


def test_sidecars_say_what_it_is(tmp_path: Path, checkpoint: Checkpoint) -> None:
    config = json.loads((write(checkpoint, "hf", tmp_path) / "config.json").read_text())
    assert (config["model_type"], config["depths"], config["hidden_sizes"]) == (
        "dinov3_convnext",
        [1, 1, 2, 1],
        [8, 16, 24, 32],
    )
    timm = json.loads((write(checkpoint, "timm", tmp_path) / "config.json").read_text())
    assert timm["model_args"] == {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32], "in_chans": 3}
    assert timm["pretrained_cfg"]["input_size"] == [3, 256, 256]
    assert timm["pretrained_cfg"]["first_conv"] == "stem.0"


def test_random_weights_are_lively_and_the_same_everywhere() -> None:
    one, other = random_checkpoint(TINY, 3), random_checkpoint(TINY, 3)
    assert same_state(one, other)
    assert one.sha256 == other.sha256 != random_checkpoint(TINY, 4).sha256
    gain = one.state["downsample_layers.1.0.weight"]
    assert 0.7 <= float(gain.min()) < 0.95 < 1.05 < float(gain.max()) <= 1.3
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    model: Any = build_model(one)
    with torch.no_grad():
        assert 0.5 < float(model.run_stages(x)[-1].std()) < 3
        whole = model(x)
        model.stages[2][1] = torch.nn.Identity()
        assert float((model(x) - whole).norm() / whole.norm()) > 0.1  # a block counts


def test_half_precision_files(tmp_path: Path, checkpoint: Checkpoint) -> None:
    state = {key: tensor.to(torch.bfloat16) for key, tensor in checkpoint.state.items()}
    torch.save(state, tmp_path / "half.pth")
    loaded = load_checkpoint(tmp_path / "half.pth")
    assert loaded.notes == ("weights are stored as bfloat16; build_model converts them to float32",)
    assert next(build_model(loaded).parameters()).dtype == torch.float32


def test_dimensions_are_a_configurations() -> None:
    assert isinstance(random_checkpoint("dinov3_convnext_tiny").config, ConvNeXtConfig)
