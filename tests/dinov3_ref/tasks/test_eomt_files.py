"""The loader of transformers' EoMT folders: strict, with one clear line for each fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinov3_ref.errors import CheckpointError
from dinov3_ref.tasks import load_task_model
from tests.support.eomt_models import save_eomt, transformers_eomt

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_eomt(transformers_eomt(), tmp_path_factory.mktemp("eomt"))


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "changed"))


def edit_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data.update(changes)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def edit_tensors(folder: Path, change: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_folder_is_recognised_and_loaded(folder: Path) -> None:
    loaded = load_task_model(folder)
    assert loaded is not None
    assert (loaded.kind, loaded.layout, loaded.size, loaded.preset) == ("eomt", "hf", (128, 128), "pad")
    assert loaded.model.settings == {
        "task": "panoptic",
        "split": False,
        "mask_stride": 4,
        "threshold": 0.8,
        "mask_threshold": 0.5,
        "overlap_mask_area_threshold": 0.8,
        "stuff_classes": [],
    }
    assert loaded.model.classes == ("person", "bicycle", "car", "sky", "road")


def test_shards_and_half_precision_load_too(tmp_path: Path) -> None:
    model = transformers_eomt().to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded = load_task_model(tmp_path)
    assert loaded is not None
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    wanted = model.mask_head.fc1.weight.float()
    assert torch.equal(loaded.model.get_submodule("mask_head.fc1").weight, wanted)
    assert any("preprocessor_config.json" in note for note in loaded.notes)


def test_facts_that_config_json_need_not_say(changed: Path) -> None:
    edit_json(
        changed / "config.json",
        rope_parameters=...,
        layer_norm_eps=...,
        hidden_act=...,
        id2label=...,
        image_size=[128, 128],
        intermediate_size=...,
    )
    loaded = load_task_model(changed)
    assert loaded is not None
    assert loaded.model.classes == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu'; wanted one of gelu, silu"),
        ({"num_blocks": 3}, "config.json says num_blocks 3, its tensors 2; wanted the same"),
        ({"hidden_size": 32}, "config.json says hidden_size 32, its tensors 64"),
        ({"patch_size": [16, 8]}, r"config.json says patch_size \[16, 8\]; wanted one number of pixels"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001; wanted 1e-05 or 1e-06"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear'; wanted 'default'"),
        (
            {"id2label": {"0": "a"}},
            "id2label in config.json names 1 classes; wanted a name for each",
        ),
        ({"num_attention_heads": "2"}, "num_attention_heads '2'; wanted a number"),
        ({"num_attention_heads": 5}, "describes no model"),
        ({"image_size": 100.5}, "image_size 100.5; wanted one number of pixels"),
    ],
)
def test_a_config_that_does_not_fit(changed: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(changed / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_task_model(changed)


def drop(key: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(key)


def put(key: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({key: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("mask_head.fc2.bias"), r"1 tensors missing.*mask_head.fc2.bias expected \[64\] found nothing"),
        (drop("layers.1.norm1.weight"), r"layers.1.norm1.weight expected \[64\] found nothing"),
        (drop("attn_mask_probs"), "attn_mask_probs should be a tensor of 1 axes"),
        (drop("class_predictor.weight"), "class_predictor.weight should be a tensor of 2 axes"),
        (put("stray", torch.zeros(1)), r"1 left over.*stray expected nothing found \[1\]"),
        (put("upscale_block.block.1.conv2.weight", torch.zeros(64, 1, 5, 5)), "conv2.weight expected"),
        (put("query.weight", torch.full((12, 64), torch.nan)), "query.weight holds NaN or infinity"),
        (
            put("attn_mask_probs", torch.tensor([0.0, 0.3])),
            r"attn_mask_probs is \[0, 0.3\], so masked attention is random.*set each to 0",
        ),
    ],
)
def test_tensors_that_do_not_fit(changed: Path, change: Callable[[Tensors], None], message: str) -> None:
    edit_tensors(changed, change)
    with pytest.raises(CheckpointError, match=message):
        load_task_model(changed)
