"""Which checkpoints are kept, and what a failed write says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from dinov3_ref.errors import CheckpointError
from dinov3_ref.train import checkpoints
from dinov3_ref.train.networks.trainable import Trainable


def test_which_checkpoints_stay(tmp_path: Path) -> None:
    for iteration in (9, 19, 29, 39, 49):
        (tmp_path / "ckpt" / str(iteration)).mkdir(parents=True)
    (tmp_path / "ckpt" / ".59.partial").mkdir()
    checkpoints.prune(tmp_path, max_to_keep=2, keep_every=20)
    assert checkpoints.finished(tmp_path) == [19, 39, 49]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_one_line(asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    networks = Trainable()
    networks.student = nn.ModuleDict({"head": nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(networks.parameters())
    writer = checkpoints.CheckpointWriter(tmp_path, asynchronous=asynchronous)

    def save() -> None:
        writer.save(4, networks, optimizer, {})
        writer.finish()

    with pytest.raises(CheckpointError, match=r"ckpt/4 could not be written .*No space left") as raised:
        save()
    assert "\n" not in str(raised.value)
    assert checkpoints.finished(tmp_path) == []
    assert not writer.is_writing
