"""Wrappers and prefixes that training runs, compilers and outer models leave around a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint
from dinov3_ref.checkpoints.unwrap import unwrap
from dinov3_ref.errors import CheckpointError, ForeignCheckpoint, KeyMismatch
from tests.support.checkpoint_files import TINY_VITS, official_state, write_official

CHECKPOINT = random_checkpoint(TINY_VITS["swiglu"])
OTHER = random_checkpoint(TINY_VITS["swiglu"], seed=1)


def same_weights(path: Path) -> bool:
    state = load_checkpoint(path).state
    return all(torch.equal(state[key], tensor) for key, tensor in CHECKPOINT.state.items())


@pytest.mark.parametrize("under", [None, "teacher", "model", "state_dict", "model_state_dict", "student"])
def test_wrappers(tmp_path: Path, under: str | None) -> None:
    assert same_weights(write_official(tmp_path / "a.pth", CHECKPOINT, under=under))


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "backbone.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.backbone.",
        "_checkpoint_wrapped_module.",
        "teacher.backbone.",
        "model_ema.backbone.",
        "model.model_ema.backbone.",
        "student.backbone.",
        "encoder.vit.",
    ],
)
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    assert same_weights(write_official(tmp_path / "a.pth", CHECKPOINT, prefix=prefix))


def test_wrappers_inside_key_names(tmp_path: Path) -> None:
    def wrap_blocks(state) -> None:
        for key in [key for key in state if key.startswith("blocks.")]:
            _, index, rest = key.split(".", 2)
            state[f"blocks.{index}._checkpoint_wrapped_module.{rest}"] = state.pop(key)

    assert same_weights(write_official(tmp_path / "a.pth", CHECKPOINT, change=wrap_blocks))


def test_teacher_is_preferred_to_student_and_gram_teacher() -> None:
    tree = {f"student.backbone.{key}": tensor for key, tensor in OTHER.state.items()}
    tree |= {f"gram_teacher.backbone.{key}": tensor for key, tensor in OTHER.state.items()}
    tree |= {f"teacher.backbone.{key}": tensor for key, tensor in CHECKPOINT.state.items()}
    found = unwrap(tree, "run.pth")
    tensors, notes = found.backbone, found.notes
    assert tensors.keys() == CHECKPOINT.state.keys()
    assert all(tensors[key].data_ptr() == CHECKPOINT.state[key].data_ptr() for key in tensors)
    assert notes == [
        "read the moving average (EMA) in 'teacher.backbone', not student.backbone, gram_teacher.backbone; "
        "--weights-key chooses another",
        "left out 42 tensors of gram_teacher (training only)",
        "left out 42 tensors of student (training only)",
    ]


def test_training_heads_are_dropped_with_a_note(tmp_path: Path) -> None:
    def add_heads(state) -> None:
        backbone = {f"backbone.{key}": state.pop(key) for key in list(state)}
        heads = {"dino_head.mlp.0.weight": torch.zeros(2), "ibot_head.last_layer.weight": torch.zeros(2)}
        state.update(backbone, **heads)

    path = write_official(tmp_path / "teacher_checkpoint.pth", CHECKPOINT, under="teacher", change=add_heads)
    assert same_weights(path)
    notes = " ".join(load_checkpoint(path).notes)
    assert "dino_head" in notes
    assert "ibot_head" in notes


def test_what_lies_beside_a_wrapper_is_noted(tmp_path: Path) -> None:
    path = write_official(
        tmp_path / "a.pth", CHECKPOINT, under="model", beside={"iteration": 7, "optimizer": {}}
    )
    assert "read 'model'; left out iteration, optimizer beside it" in load_checkpoint(path).notes


RAW, AVERAGE = OTHER.state, CHECKPOINT.state


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def mmcv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"ema_backbone_{key.replace('.', '_')}": tensor for key, tensor in state.items()}


# Who writes it -> a file with raw weights and their moving average, as that library writes it.
MOVING_AVERAGES: dict[str, dict[str, Any]] = {
    "timm": {"state_dict": RAW, "state_dict_ema": AVERAGE},
    "torchvision": {"model": RAW, "model_ema": {"n_averaged": torch.tensor(3), **under("module.", AVERAGE)}},
    "RT-DETR and DEIM": {
        "model": under("backbone.", RAW),
        "ema": {"module": under("backbone.", AVERAGE), "updates": 7},
    },
    "mmengine": {
        "meta": {"mmengine_version": "0.10"},
        "state_dict": under("backbone.", AVERAGE),
        "ema_state_dict": under("module.backbone.", RAW),
    },
    "mmengine without meta": {
        "state_dict": under("backbone.", AVERAGE),
        "ema_state_dict": {"steps": torch.tensor(3), **under("module.backbone.", RAW)},
    },
    "mmcv 1": {"state_dict": {**under("backbone.", AVERAGE), **mmcv(RAW)}},
    "another ema_state_dict": {"state_dict": RAW, "ema_state_dict": AVERAGE},
    "Lightning": {
        "state_dict": under("model.", AVERAGE),
        "current_model_state": under("model.", RAW),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "a Lightning module": {"state_dict": {**under("model.", RAW), **under("model_ema.module.", AVERAGE)}},
    "ema-pytorch": {**under("online_model.", RAW), **under("ema_model.", AVERAGE), "step": torch.tensor(3)},
    "Fabric": {"model": RAW, "ema": AVERAGE, "optimizer": {"state": {}}, "step": 3},
    "SWA": {"model_state_dict": RAW, "swa_model_state_dict": AVERAGE},
    "averaged": {"model": RAW, "averaged_model": under("module.", AVERAGE)},
    "a name of one's own": {"net": RAW, "net_ema": AVERAGE},
    "capitals": {"net": RAW, "EMA": AVERAGE},
    "DINO": {"student": under("module.backbone.", RAW), "teacher": under("backbone.", AVERAGE)},
}


@pytest.mark.parametrize("writer", MOVING_AVERAGES)
def test_the_moving_average_is_read(tmp_path: Path, writer: str) -> None:
    torch.save(MOVING_AVERAGES[writer], tmp_path / "run.pth")
    assert same_weights(tmp_path / "run.pth")
    notes = " ".join(load_checkpoint(tmp_path / "run.pth").notes)
    assert "moving average (EMA)" in notes or writer == "mmcv 1"
    assert writer != "mmcv 1" or "left out 42 tensors outside it: ema_* (42)" in notes


@pytest.mark.parametrize(
    ("writer", "key"),
    [
        ("timm", "state_dict"),
        ("RT-DETR and DEIM", "model"),
        ("RT-DETR and DEIM", "model.backbone"),
        ("mmengine", "ema_state_dict"),
        ("Lightning", "current_model_state.model"),
        ("a Lightning module", "state_dict.model"),
        ("ema-pytorch", "online_model"),
        ("DINO", "student"),
    ],
)
def test_weights_key_chooses_the_raw_weights(tmp_path: Path, writer: str, key: str) -> None:
    torch.save(MOVING_AVERAGES[writer], tmp_path / "run.pth")
    state = load_checkpoint(tmp_path / "run.pth", weights_key=key).state
    assert all(torch.equal(state[name], tensor) for name, tensor in RAW.items())


def test_a_weights_key_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    torch.save(MOVING_AVERAGES["timm"], tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match=r"no backbone under 'ema'; found: state_dict, state_dict_ema$"):
        load_checkpoint(tmp_path / "run.pth", weights_key="ema")


def test_two_different_backbones_are_not_guessed_between(tmp_path: Path) -> None:
    both = {**under("left.", CHECKPOINT.state), **under("right.", OTHER.state)}
    torch.save(both, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"several different backbones \(left, right\).*--weights-key"):
        load_checkpoint(tmp_path / "two.pth")
    torch.save({**both, **under("right.", CHECKPOINT.state)}, tmp_path / "same.pth")
    assert same_weights(tmp_path / "same.pth")


@pytest.mark.parametrize(
    "rest",
    [
        {"head.weight": torch.zeros(3, 128), "head.bias": torch.zeros(3)},
        {"linear_head.weight": torch.zeros(3, 128)},
        {"classifier.weight": torch.zeros(3, 128)},
        {"fc.weight": torch.zeros(3, 128)},
        {"decoder.blocks.0.attn.qkv.weight": torch.zeros(3, 3)},
        {"head.fc.weight": torch.zeros(3, 128)},
    ],
)
@pytest.mark.parametrize("prefix", ["", "backbone.", "model.backbone."])
def test_heads_beside_the_backbone_are_left_out_with_a_note(
    tmp_path: Path, prefix: str, rest: dict[str, Tensor]
) -> None:
    torch.save({**under(prefix, CHECKPOINT.state), **rest}, tmp_path / "tuned.pth")
    assert same_weights(tmp_path / "tuned.pth")
    part = next(iter(rest)).split(".")[0]
    notes = load_checkpoint(tmp_path / "tuned.pth").notes
    assert f"read the backbone only; left out {len(rest)} tensors outside it: {part} ({len(rest)})" in notes


def test_another_network_beside_the_backbone_is_no_candidate(tmp_path: Path) -> None:
    """A detector's adapter has a convolution that is called like timm's ConvNeXt stem."""
    rest = {"backbone.sta.stem.0.weight": torch.zeros(4, 3, 3, 3), "decoder.cls_token": torch.zeros(1, 1, 8)}
    torch.save({**under("backbone.dinov3.", CHECKPOINT.state), **rest}, tmp_path / "detector.pth")
    assert same_weights(tmp_path / "detector.pth")


def test_unknown_tensors_in_the_backbone_are_refused(tmp_path: Path) -> None:
    extra = {"backbone.blocks.0.adapter.weight": torch.zeros(4, 128)}
    torch.save({**under("backbone.", CHECKPOINT.state), **extra}, tmp_path / "a.pth")
    with pytest.raises(KeyMismatch, match=r"blocks\.0\.adapter\.weight expected nothing found \[4, 128\]"):
        load_checkpoint(tmp_path / "a.pth")


def test_unmerged_lora_weights_are_refused(tmp_path: Path) -> None:
    state = dict(CHECKPOINT.state)
    state["blocks.0.attn.qkv.base_layer.weight"] = state.pop("blocks.0.attn.qkv.weight")
    state["blocks.0.attn.qkv.lora_A.default.weight"] = torch.zeros(4, 128)
    torch.save(under("base_model.model.", state), tmp_path / "a.pth")
    with pytest.raises(ForeignCheckpoint, match="merge_and_unload"):
        load_checkpoint(tmp_path / "a.pth")


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.pth", CHECKPOINT, beside={"epoch": 3})
    assert same_weights(path)
    assert "left out epoch beside the tensors" in load_checkpoint(path).notes
    torch.save({"epoch": 3}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"no tensors but epoch \(int\)"):
        load_checkpoint(tmp_path / "b.pth")


def test_a_tensor_given_twice_is_refused() -> None:
    tree = official_state(CHECKPOINT)
    tree["module.norm.weight"] = tree["norm.weight"]
    with pytest.raises(CheckpointError, match=r"'norm\.weight' twice"):
        unwrap(tree, "a.pth")


def test_no_tensors_at_all() -> None:
    with pytest.raises(CheckpointError, match="no tensors"):
        unwrap({"model": {}}, "a.pth")
