"""Which checkpoints are kept."""

from __future__ import annotations

from pathlib import Path

from dinov3_ref.train import checkpoints


def test_which_checkpoints_stay(tmp_path: Path) -> None:
    for iteration in (9, 19, 29, 39, 49):
        (tmp_path / "ckpt" / str(iteration)).mkdir(parents=True)
    (tmp_path / "ckpt" / ".59.partial").mkdir()
    checkpoints.prune(tmp_path, max_to_keep=2, keep_every=20)
    assert checkpoints.finished(tmp_path) == [19, 39, 49]
