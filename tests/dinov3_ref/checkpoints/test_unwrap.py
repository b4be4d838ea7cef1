"""Wrappers and prefixes that training runs, compilers and outer models leave around a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint
from dinov3_ref.checkpoints.unwrap import unwrap
from dinov3_ref.errors import CheckpointError, KeyMismatch
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
    tensors, notes = unwrap(tree, "run.pth")
    assert tensors.keys() == CHECKPOINT.state.keys()
    assert all(tensors[key].data_ptr() == CHECKPOINT.state[key].data_ptr() for key in tensors)
    assert len(notes) == 2


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


def test_other_tensors_outside_the_backbone_are_not_swallowed(tmp_path: Path) -> None:
    def add_classifier(state) -> None:
        backbone = {f"backbone.{key}": state.pop(key) for key in list(state)}
        state.update(backbone, **{"classifier.weight": torch.zeros(10, 128)})

    path = write_official(tmp_path / "a.pth", CHECKPOINT, change=add_classifier)
    with pytest.raises(KeyMismatch, match=r"classifier\.weight expected nothing found \[10, 128\]"):
        load_checkpoint(path)


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    path = write_official(tmp_path / "a.pth", CHECKPOINT, beside={"epoch": 3})
    with pytest.raises(CheckpointError, match="entry 'epoch' of type int"):
        load_checkpoint(path)


def test_a_tensor_given_twice_is_refused() -> None:
    tree = official_state(CHECKPOINT)
    tree["module.norm.weight"] = tree["norm.weight"]
    with pytest.raises(CheckpointError, match=r"'norm\.weight' twice"):
        unwrap(tree, "a.pth")


def test_no_tensors_at_all() -> None:
    with pytest.raises(CheckpointError, match="no tensors"):
        unwrap({"model": {}}, "a.pth")
