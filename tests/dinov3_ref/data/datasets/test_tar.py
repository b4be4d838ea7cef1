"""Tar shards: labels, compressed and damaged files."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from dinov3_ref.data.datasets import (
    TarShards,
)
from dinov3_ref.errors import DataError
from tests.support.images.image_files import encoded, write_tar


def test_shards_with_and_without_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": encoded("coffee"), "1.cls": b"12\n", "2.jpg": encoded("china")})
    assert len(TarShards(tmp_path / "a.tar")) == 2
    assert TarShards(tmp_path / "a.tar").name(1) == f"{tmp_path}/a.tar/2.jpg"
    with pytest.raises(DataError, match=r"'2\.jpg' has no label"):
        TarShards(tmp_path / "a.tar", labelled=True)


def test_compressed_and_truncated_shards_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match="shards must be complete and uncompressed"):
        TarShards(tmp_path / "x.tar")
    path = write_tar(tmp_path / "cut.tar", {"1.jpg": encoded("coffee"), "2.jpg": encoded("china")})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="shards must be complete and uncompressed"):
        TarShards(path)
