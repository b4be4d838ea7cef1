"""Hugging Face's layout: key names of every age, and a config.json that is taken at its word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinov3_ref.checkpoints import (
    load_checkpoint,
    random_checkpoint,
    save_checkpoint,
)
from dinov3_ref.errors import CheckpointError, ForeignCheckpoint
from tests.support.checkpoint_files import TINY_VITS, features
from tests.support.images.photographs import pixels

PIXELS = pixels(("coffee", "chelsea"), 48, 80)


RENAMES = {
    "in memory": lambda key: key.replace("layer.", "model.layer.", 1) if key.startswith("layer.") else key,
    "under an outer model": lambda key: f"dinov3_vit.{key}",
    "first conversions": lambda key: (
        key.replace("q_proj", "query")
        .replace("k_proj", "key")
        .replace("v_proj", "value")
        .replace("patch_embeddings", "patch_embeddings.proj")
    ),
}


@pytest.mark.parametrize("name", RENAMES)
def test_older_and_newer_hugging_face_names(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", tmp_path / "hf")[0]
    wanted = load_checkpoint(path)
    tensors = load_file(path)
    renamed = {RENAMES[name](key): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, path)
    loaded = load_checkpoint(path)
    assert all(torch.equal(loaded.state[key], tensor) for key, tensor in wanted.state.items())


def test_stored_hugging_face_periods_are_honoured(tmp_path: Path) -> None:
    path = save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", tmp_path / "hf")[0]
    odd = torch.arange(1, 17, dtype=torch.float32)
    stored = {"rope_embeddings.periods": odd, "rope_embeddings.inv_freq": 1 / odd}
    save_file({**load_file(path), **stored}, path)
    assert torch.equal(load_checkpoint(path).state["rope_embed.periods"], odd)


def test_hugging_face_key_bias_is_honoured(tmp_path: Path) -> None:
    config = replace(TINY_VITS["mlp"], mask_k_bias=False)
    checkpoint = random_checkpoint(config)
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    loaded = load_checkpoint(tmp_path / "hf")
    assert loaded.config == config
    assert torch.equal(features(loaded, PIXELS), features(checkpoint, PIXELS))


def edit_config(path: Path, **fields) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model_type": "dinov2"}, ForeignCheckpoint, "model_type 'dinov2'"),
        ({"layer_norm_eps": 1e-3}, CheckpointError, "layer_norm_eps 0.001; wanted 1e-05 or 1e-06"),
        ({"hidden_act": "relu"}, CheckpointError, "hidden_act 'relu'; wanted 'gelu'"),
        ({"num_attention_heads": 7}, CheckpointError, "7 heads"),
        ({"num_attention_heads": 0}, CheckpointError, "num_heads is 0"),
        ({"rope_theta": "hundred"}, CheckpointError, "rope_theta 'hundred'; wanted a number"),
    ],
)
def test_config_json_that_is_another_model(tmp_path: Path, fields, error, words: str) -> None:
    save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", tmp_path / "hf")
    edit_config(tmp_path / "hf", **fields)
    with pytest.raises(error, match=words):
        load_checkpoint(tmp_path / "hf")


def test_config_json_is_honoured(tmp_path: Path) -> None:
    save_checkpoint(random_checkpoint(TINY_VITS["mlp"]), "hf", tmp_path / "hf")
    edit_config(tmp_path / "hf", rope_theta=1000.0, layer_norm_eps=1e-6, num_attention_heads=4)
    config = load_checkpoint(tmp_path / "hf").config
    assert (config.pos_embed_rope_base, config.norm_layer, config.num_heads) == (1000.0, "layernorm", 4)
