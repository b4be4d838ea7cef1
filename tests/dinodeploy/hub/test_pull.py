"""A whole bundle from the hub: complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.errors import MisuseError, OutputExistsError, TamperedError
from dinodeploy.hub.pull import pull
from tests.support.hub.server import Hub

TOY = Path(__file__).parents[2] / "data" / "format1_bundle"


@pytest.fixture
def held(hub: Hub) -> Hub:
    hub.hold("org/toy", TOY)
    return hub


def test_the_folder_is_named_after_the_repository(
    held: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pulled = pull(f"hf://org/toy@{held.head('org/toy')}")
    assert pulled.out == Path("toy")
    open_bundle(tmp_path / "toy").verify()
    assert not any(path.is_symlink() for path in (tmp_path / "toy").iterdir())
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "toy").iterdir()), "a folder of its own"


def test_a_folder_that_exists(held: Hub, tmp_path: Path) -> None:
    pull("org/toy", tmp_path / "b")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        pull("org/toy", tmp_path / "b")
    pull("org/toy", tmp_path / "b", overwrite=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputExistsError):
        pull("org/toy", tmp_path / "other", overwrite=True)


def test_a_damaged_download_leaves_nothing(held: Hub, tmp_path: Path) -> None:
    held.corrupted.add("model.cls.onnx")
    with pytest.raises(TamperedError, match=r"model\.cls\.onnx"):
        pull("org/toy", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_source_that_is_no_repository(held: Hub, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="wanted hf://ORG/NAME"):
        pull("toy", tmp_path / "b")
