"""An adapter that was merged here gives the weights that PEFT's `merge_and_unload` gives, in float64.

Each adapter is made by PEFT on the model of a library (transformers, timm, ours), its tensors are random, and
it goes through `save_pretrained`. Measured: at most 6e-8 of each tensor, the rounding to float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dinov3_ref.checkpoints import (
    Checkpoint,
    build_model,
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.checkpoints.adapters.merge import merge_adapter
from dinov3_ref.checkpoints.adapters.read import read_adapter
from dinov3_ref.checkpoints.layouts.convnext import CONVNEXT_LAYOUTS
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS
from dinov3_ref.errors import ArchMismatch, KeyMismatch
from dinov3_ref.models.config import ConvNeXtConfig
from dinov3_ref.torchvision_shim import import_torchvision
from tests.support.tiny_models import tiny_config, tiny_convnext

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of the two libraries, about each other
LIMIT = 1e-6  # relative error of each tensor
Edit = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in every layout, and a ConvNeXt."""
    root = tmp_path_factory.mktemp("bases")
    checkpoint = random_checkpoint(tiny_config(depth=2, embed_dim=64, num_heads=1))
    save_checkpoint(checkpoint, "official", root / "official.safetensors")
    save_checkpoint(checkpoint, "hf", root / "hf")
    save_checkpoint(checkpoint, "timm", root / "timm")
    save_checkpoint(random_checkpoint(tiny_convnext()), "timm", root / "convnext")
    return root


def model_of(library: str, folder: Path) -> nn.Module:
    """The library's own model with the weights of `folder`, in float64."""
    import_torchvision()
    if library == "hf":
        from transformers import AutoModel

        return AutoModel.from_pretrained(folder / "hf").double()
    if library == "official":
        return build_model(load_checkpoint(folder / "official.safetensors")).double()
    import timm

    name = "convnext" if library == "convnext" else "timm"
    return timm.create_model(f"local-dir:{folder / name}", pretrained=True, num_classes=0).double()


def adapt(model: nn.Module, out: Path, **options: Any) -> nn.Module:
    """Save an adapter with random tensors to `out`; the model as PEFT merges it."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 6, **options}))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = parameter.data * (1 + noise / 8) + ("magnitude" not in name) * noise / 8
    adapted.save_pretrained(out)
    merged: nn.Module = adapted.merge_and_unload()
    return merged


def worst_error(merged: Checkpoint, wanted: nn.Module, library: str) -> float:
    """Largest relative error of a tensor of the library's model; every one must be there."""
    convnext = isinstance(merged.config, ConvNeXtConfig)
    layouts: tuple[Any, ...] = CONVNEXT_LAYOUTS if convnext else LAYOUTS
    layout = next(one for one in layouts if one.name == ("timm" if convnext else library))
    found = layout.from_official(merged.state, merged.config)
    tensors = {layout.modern(key): tensor for key, tensor in wanted.state_dict().items()}
    errors = {
        key: float((found[key].double() - tensor).norm() / tensor.norm().clamp_min(1e-12))
        for key, tensor in tensors.items()
        if key in found and not key.endswith("mask_token")  # which timm does not store
    }
    assert len(errors) >= len(found) - 1  # the mask token of transformers
    return max(errors.values())


BASES = {"hf": "hf", "timm": "timm", "official": "official.safetensors", "convnext": "convnext"}
LINEAR = {
    "hf": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
    "timm": ["qkv", "fc1"],
    "official": ["qkv", "proj", "fc2"],  # the patch embedding's `proj` too, a convolution
    "convnext": ["fc1", "fc2"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("library", BASES)
def test_merges_as_peft_does(folder: Path, tmp_path: Path, library: str, variant: str) -> None:
    wanted = adapt(model_of(library, folder), tmp_path, target_modules=LINEAR[library], **VARIANTS[variant])
    base = load_checkpoint(folder / BASES[library])
    merged = load_checkpoint(folder / BASES[library], adapter=tmp_path)
    assert worst_error(merged, wanted, library) < LIMIT
    assert worst_error(base, wanted, library) > 0.1


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "patterns of ranks": (
        "hf",
        {
            "target_modules": ["q_proj", "o_proj"],
            "rank_pattern": {"layer.0.attention.q_proj": 2, "o_proj": 8},
            "alpha_pattern": {r"layer\.1\..*": 32},
            "use_rslora": True,
        },
    ),
    "a regular expression": ("hf", {"target_modules": r".*layer\.[1]\.(attention|mlp)\..*(q|up)_proj"}),
    "one layer": (
        "official",
        {"target_modules": ["qkv"], "layers_to_transform": [1], "layers_pattern": "blocks"},
    ),
    "without some": (
        "official",
        {"target_modules": ["qkv", "proj"], "exclude_modules": ["patch_embed.proj"]},
    ),
    "all biases": ("hf", {"target_modules": ["q_proj", "v_proj"], "bias": "all"}),
    "all biases of fused projections": ("official", {"target_modules": ["qkv"], "bias": "all"}),
    "biases of adapted layers": ("hf", {"target_modules": ["up_proj"], "bias": "lora_only"}),
    "a bias of B": ("hf", {"target_modules": ["q_proj", "up_proj"], "lora_bias": True}),
    "stored transposed": ("timm", {"target_modules": ["qkv"], "fan_in_fan_out": True}),
    "whole modules": ("hf", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    "DoRA on a convolution": ("official", {"target_modules": ["patch_embed.proj"], "use_dora": True}),
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:Adapter 'default'")  # of a bias: no matrix
@pytest.mark.parametrize("case", OPTIONS)
def test_merges_options_as_peft_does(folder: Path, tmp_path: Path, case: str) -> None:
    library, options = OPTIONS[case]
    wanted = adapt(model_of(library, folder), tmp_path, **options)
    merged = load_checkpoint(folder / BASES[library], adapter=tmp_path)
    assert worst_error(merged, wanted, library) < LIMIT
    assert worst_error(load_checkpoint(folder / BASES[library]), wanted, library) > 1e-3


def test_merges_into_a_base_of_another_layout(folder: Path, tmp_path: Path) -> None:
    """An adapter of transformers' model, and the official file: its closed masks open for trained biases."""
    options: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "o_proj"], "bias": "all"}
    wanted = adapt(model_of("hf", folder), tmp_path, **options)
    official = load_checkpoint(folder / "official.safetensors")
    closed = {k: torch.zeros_like(t) if "bias_mask" in k else t for k, t in official.state.items()}
    save_checkpoint(replace(official, state=closed), "official", tmp_path / "closed.safetensors")
    for base in (folder / "timm", folder / "official.safetensors", tmp_path / "closed.safetensors"):
        assert worst_error(load_checkpoint(base, adapter=tmp_path), wanted, "hf") < LIMIT


class Wrapped(nn.Module):
    """A backbone and a classifier in a model of the user's own."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(64, 5).double()


def test_modules_beside_the_backbone_come_along(folder: Path, tmp_path: Path) -> None:
    model = Wrapped(model_of("hf", folder))
    wanted = adapt(model, tmp_path, target_modules=["q_proj"], modules_to_save=["classifier"])
    merged = load_checkpoint(folder / "hf", adapter=tmp_path)
    backbone = wanted.get_submodule("backbone")
    assert worst_error(merged, backbone, "hf") < LIMIT
    assert merged.beside.keys() == {"classifier.weight", "classifier.bias"}
    assert torch.equal(merged.beside["classifier.weight"], wanted.get_parameter("classifier.weight").float())
    assert merged.adapter is not None
    assert merged.adapter.source == tmp_path.name


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good adapter of q and v."""
    out = tmp_path_factory.mktemp("adapter")
    adapt(model_of("hf", folder), out, target_modules=["q_proj", "v_proj"])
    return out


def changed(adapter: Path, out: Path, edit: Edit = lambda _: None, **config: Any) -> Path:
    """A copy of an adapter whose tensors and configuration were edited."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, out / "adapter_model.safetensors")
    document = json.loads((adapter / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps({**document, **config}))
    return out


A0 = "base_model.model.model.layer.0.attention.q_proj.lora_A.weight"
TENSORS: dict[str, tuple[Edit, str]] = {
    "a whole layer": (
        lambda t: [t.pop(A0), t.pop(A0.replace("_A", "_B"))],
        "has no tensors of model.layer.0.attention.q_proj, which its configuration names",
    ),
    "another width": (lambda t: t.update({A0: torch.ones(4, 32)}), "was trained on another model"),
    "a layer too many": (
        lambda t: t.update({k.replace("layer.0", "layer.7"): v.clone() for k, v in list(t.items())}),
        "which hf does not have",
    ),
    "a tensor without a place": (
        lambda t: t.update({"base_model.model.decoder.weight": torch.ones(2, 2)}),
        "changes decoder.weight, which hf does not have",
    ),
}


def test_names_a_layer_without_tensors(folder: Path, adapter: Path, tmp_path: Path) -> None:
    changed(adapter, tmp_path, target_modules=["q_proj", "v_proj", "k_proj"])
    with pytest.raises(KeyMismatch, match=r"has no tensors of model\.layer\.0\.attention\.k_proj"):
        load_checkpoint(folder / "hf", adapter=tmp_path)


@pytest.mark.parametrize(
    ("named", "held", "fits"),
    [
        ("facebook/dinov3-vitl16-pretrain-sat493m", ("vit_large", "lvd1689m"), False),
        ("facebook/dinov3-vitl16-pretrain-sat493m", ("vit_large", "sat493m"), True),
        ("facebook/dinov3-vits16-pretrain-lvd1689m", ("vit_large", "lvd1689m"), False),
        ("/home/me/base", ("vit_large", "lvd1689m"), True),
    ],
)
def test_refuses_another_released_base(
    folder: Path, adapter: Path, named: str, held: tuple[str, str], fits: bool
) -> None:
    base = replace(load_checkpoint(folder / "hf"), arch=held[0], dataset=held[1])
    read = read_adapter(adapter)
    read = replace(read, config=replace(read.config, base=named))
    if fits:
        assert merge_adapter(base, read).adapter is not None
    else:
        with pytest.raises(ArchMismatch, match=f"was trained on {named}, .* holds {held[0]}, {held[1]}"):
            merge_adapter(base, read)


@pytest.mark.parametrize("case", TENSORS)
def test_refuses_tensors(folder: Path, adapter: Path, tmp_path: Path, case: str) -> None:
    edit, words = TENSORS[case]
    with pytest.raises(KeyMismatch) as caught:
        load_checkpoint(folder / "hf", adapter=changed(adapter, tmp_path, edit))
    assert words.replace("which hf", f"which {folder / 'hf'}") in str(caught.value)
    assert "\n" not in str(caught.value)
