"""The exported teacher is an official checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from dinov3_ref.checkpoints import build_model, load_checkpoint
from dinov3_ref.data import build_training_loader
from dinov3_ref.train.loop import TrainingRun
from tests.support.images.photographs import pixels
from tests.support.toy_training import tiny_run


def test_the_teacher_is_an_official_checkpoint(photos: Path, tmp_path: Path) -> None:
    """A recipe with a released model's details exports what any user of official files can load."""
    released = ("student.n_storage_tokens=4", "student.mask_k_bias=true", "student.norm_layer=layernormbf16")
    channels = ("crops.rgb_mean=[0.5,0.4,0.3]", "crops.rgb_std=[0.25,0.24,0.23]")
    config = tiny_run(
        photos, tmp_path / "run", *released, *channels, "student.embed_dim=128", "optim.epochs=1"
    )
    config.optim.warmup_epochs = 0
    training = TrainingRun(config, build_training_loader(config))
    training.train()
    checkpoint = load_checkpoint(tmp_path / "run" / "teacher")
    assert (checkpoint.mean, checkpoint.std) == ((0.5, 0.4, 0.3), (0.25, 0.24, 0.23))
    assert checkpoint.dataset is None
    model = build_model(checkpoint)
    x = pixels(["coffee"], 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(x), training.arch.teacher["backbone"](x))
