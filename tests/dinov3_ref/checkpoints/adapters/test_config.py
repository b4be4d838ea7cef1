"""What adapter_config.json decides, held against PEFT's own rules; others are refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dinov3_ref.checkpoints.adapters.config import AdapterConfig, read_config
from dinov3_ref.errors import CheckpointError
from dinov3_ref.torchvision_shim import import_torchvision


def written(folder: Path, **options: Any) -> Path:
    document = {"peft_type": "LORA", "target_modules": ["qkv"], **options}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"peft_type": "IA3"}, "describes an adapter of type IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "also changed the base weights"),
        ({"target_parameters": ["cls_token"]}, "says target_parameters"),
        ({"use_something_new": True}, "says use_something_new True, which cannot be merged here"),
        ({"rank_pattern": {"(": 4}}, "is no regular expression"),
        ({"alpha_pattern": {"qkv": "4"}}, "has the value '4'; wanted a number"),
        ({"lora_alpha": "much"}, "says lora_alpha 'much'; wanted int or float"),
        ({"r": True}, "says r True; wanted int"),
    ],
)
def test_refuses(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(written(tmp_path, **options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_a_folder_without_one_and_another_document(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        read_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list; wanted a JSON object"):
        read_config(tmp_path)


def test_scaling() -> None:
    config = AdapterConfig(lora_alpha=6, r=4, alpha_pattern={"fc1": 32}, rank_pattern={r"blocks\.1\..*": 2})
    assert config.scaling("blocks.0.attn.qkv", 4) == 1.5
    assert config.scaling("blocks.0.mlp.fc1", 4) == 8.0
    assert config.rank("blocks.1.attn.qkv") == 2
    assert config.rank("blocks.0.attn.qkv") == 4
    stabilised = AdapterConfig(lora_alpha=6, r=4, use_rslora=True)
    assert stabilised.scaling("blocks.0.attn.qkv", 4) == 6 / math.sqrt(4)


MODULES = [
    f"{prefix}blocks.{index}.{name}"
    for prefix in ("", "model.")
    for index in (0, 1, 11)
    for name in ("attn.qkv", "attn.proj", "mlp.fc1")
] + ["patch_embed.proj", "head"]


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["qkv", "proj"]},
        {"target_modules": ["blocks.1.attn.qkv"]},
        {"target_modules": r".*blocks\.\d\.attn\.(qkv|proj)"},
        {"target_modules": r"blocks\.1"},
        {"target_modules": ["proj"], "exclude_modules": ["patch_embed.proj"]},
        {"target_modules": ["proj"], "exclude_modules": r".*blocks\.1\..*"},
        {"target_modules": ["qkv", "head"], "modules_to_save": ["head"]},
        {"target_modules": ["qkv"], "layers_to_transform": [1, 11]},
        {"target_modules": ["qkv"], "layers_to_transform": 1, "layers_pattern": "blocks"},
        {"target_modules": ["qkv"], "layers_to_transform": [0], "layers_pattern": ["layer", "blocks"]},
        {"target_modules": ["qkv"], "layers_to_transform": [0], "layers_pattern": ["layer"]},
    ],
)
def test_targets_the_modules_that_peft_targets(options: dict[str, Any], tmp_path: Path) -> None:
    import_torchvision()
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    ours, theirs = read_config(written(tmp_path, **options)), LoraConfig(**options)
    wanted = {
        module: found is True or (found is not None and found.__class__.__name__ == "Match")
        for module in MODULES
        for found in [check_target_module_exists(theirs, module)]
    }
    assert {module: ours.targets(module) for module in MODULES} == wanted
    assert not all(wanted.values())
