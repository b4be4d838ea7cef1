"""A whole model is recognised by config.json or by its keys; a backbone alone is not one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from dinov3_ref.tasks import TaskKind, load_task_model, recognise

KIND = TaskKind(
    "boxes", "none:none", ("boxes_dinov3",), ("BoxesModel",), (r"boxes\.\d+\.weight", r"scores\.bias")
)


def test_a_kind_matches_its_config_or_its_keys() -> None:
    named = {"model_type": "boxes_dinov3", "architectures": ["BoxesModel"]}
    assert KIND.matches(named, ())
    assert not KIND.matches({**named, "architectures": ["BoxesBackbone"]}, ())
    assert not KIND.matches({"model_type": "dinov3_vit"}, ())
    assert KIND.matches({}, ("boxes.0.weight", "scores.bias"))
    assert not KIND.matches({}, ("boxes.0.weight",))


def test_a_backbone_is_no_whole_model(tmp_path: Path) -> None:
    save_file({"embeddings.cls_token": torch.zeros(1, 1, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov3_vit"}))
    assert recognise(tmp_path) is None
    assert load_task_model(tmp_path) is None
