"""Initial weights from files: backbones in any layout, teachers with heads, files that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dinov3_ref.checkpoints import load_checkpoint
from dinov3_ref.checkpoints.convert import save_checkpoint
from dinov3_ref.errors import CheckpointError, ConfigError, KeyMismatch
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.toy_training import same_weights, tiny_training

RELEASED = (
    "student.n_storage_tokens=4",
    "student.mask_k_bias=true",
    "student.norm_layer=layernormbf16",
    "student.embed_dim=128",
)


OWN_GRAM = ("gram.use_loss=true", "crops.gram_teacher_crops_size=64")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[SSLMetaArch, Path]:
    """A run with the options of the released models, and its teacher.pth."""
    torch.manual_seed(1)
    arch = SSLMetaArch(tiny_training(*RELEASED))
    for block in arch.teacher["backbone"].blocks:
        nn.init.normal_(block.attn.qkv.bias)  # timm's layout drops biases that are zero
    path = tmp_path_factory.mktemp("run") / "teacher.pth"
    torch.save({"teacher": arch.teacher.state_dict()}, path)
    return arch, path


@pytest.mark.parametrize("layout", ["official", "hf", "timm"])
def test_a_backbone_without_heads(layout: str, run_file: tuple[SSLMetaArch, Path], tmp_path: Path) -> None:
    """Released files have no heads (facebookresearch/dinov3 #23, #207)."""
    earlier, path = run_file
    source = tmp_path / {"official": "backbone.pth", "hf": "folder", "timm": "model.safetensors"}[layout]
    save_checkpoint(load_checkpoint(path), layout, source)
    arch = SSLMetaArch(tiny_training(*RELEASED, f"student.pretrained_weights={source}"))
    wanted, got = earlier.teacher["backbone"], arch.student["backbone"]
    for key in ("cls_token", "storage_tokens", "blocks.1.mlp.fc2.weight", "norm.bias"):
        assert torch.equal(got.state_dict()[key], wanted.state_dict()[key]), key
    assert same_weights(arch.student, arch.model_ema)
    assert not same_weights(arch.student["dino_head"], earlier.teacher["dino_head"])


def test_a_teacher_with_heads(run_file: tuple[SSLMetaArch, Path]) -> None:
    earlier, path = run_file
    arch = SSLMetaArch(tiny_training(*RELEASED, f"student.resume_from_teacher_chkpt={path}"))
    assert same_weights(arch.student, earlier.teacher)
    assert same_weights(arch.model_ema, earlier.teacher)


def test_a_gram_teacher_from_a_file(run_file: tuple[SSLMetaArch, Path]) -> None:
    earlier, path = run_file
    arch = SSLMetaArch(tiny_training(*RELEASED, *OWN_GRAM, f"gram.ckpt={path}"))
    assert arch.gram_teacher is not None
    wanted = earlier.teacher["backbone"].state_dict()
    got = arch.gram_teacher["backbone"].state_dict()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted if "periods" not in key)
    assert not same_weights(arch.gram_teacher["backbone"], arch.model_ema["backbone"])


def test_files_that_do_not_fit(run_file: tuple[SSLMetaArch, Path], tmp_path: Path) -> None:
    earlier, path = run_file
    with pytest.raises(KeyMismatch, match="tensors missing"):
        SSLMetaArch(tiny_training(*RELEASED, "student.depth=3", f"student.pretrained_weights={path}"))
    torch.save(earlier.teacher["backbone"].state_dict(), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="no entry 'teacher'"):
        SSLMetaArch(tiny_training(*RELEASED, f"student.resume_from_teacher_chkpt={tmp_path / 'bare.pth'}"))
    with pytest.raises(ConfigError, match="choose one"):
        tiny_training("student.pretrained_weights=a", "student.resume_from_teacher_chkpt=b")
