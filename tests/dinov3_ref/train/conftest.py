"""Fixtures for tests of training runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.images.image_files import write_folder
from tests.support.training.toy_training import tiny_training


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs to train on."""
    return write_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher.yaml and teacher.pth, embed_dim 96."""
    folder = tmp_path_factory.mktemp("teacher")
    config = tiny_training("student.embed_dim=96", "student.num_heads=3")
    OmegaConf.save(config, folder / "teacher.yaml")
    torch.manual_seed(5)
    torch.save({"teacher": SSLMetaArch(config).teacher.state_dict()}, folder / "teacher.pth")
    return folder
