"""docs/pytorch.md: its programs run, in order, in a folder with a bundle and a store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dinodeploy
from tests.support.images.photographs import photograph

PAGE = (Path(__file__).parents[3] / "docs" / "pytorch.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bundle, photos/cat.jpg and dog.jpg, query.jpg, embeddings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(tiny_bundle)
    (tmp_path / "photos").mkdir()
    for name, source in (("photos/cat", "chelsea"), ("photos/dog", "rocket"), ("query", "chelsea")):
        photograph(source).resize((60, 40)).save(tmp_path / f"{name}.jpg")
    dinodeploy.embed(["photos"], engine="bundle", out="embeddings")
    return tmp_path


def run(section: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    for program in re.findall(r"^```python\n(.*?)^```$", SECTIONS[section], re.DOTALL | re.MULTILINE):
        exec(compile(program, "pytorch.md", "exec", dont_inherit=True), names)
    return names


@pytest.mark.slow
def test_torch(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    names = run("An engine as torch.nn.Module")
    assert names["cls"].shape == (2, 128)
    assert names["patches"].shape == (2, 24, 128)
    assert names["grid"].shape == (2, 128, 4, 6)
    run("A store as torch Dataset")
    printed = capfd.readouterr().out
    assert printed.count("torch.Size([2, 128])") == 3
    assert printed.count("photos/dog.jpg") == 2


@pytest.mark.slow
def test_sklearn(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    run("scikit-learn")
    assert "['cat']" in capfd.readouterr().out


@pytest.mark.slow
def test_functions_of_ray_and_spark(folder: Path) -> None:
    """As their schedulers call them: with a dictionary of arrays, and with an iterator of series."""
    pandas = pytest.importorskip("pandas")
    _, wanted = dinodeploy.load_embeddings("embeddings")
    content = [Path(f"photos/{name}.jpg").read_bytes() for name in ("cat", "dog")] + [b"no image"]
    batch = {"path": np.array(["a", "b", "c"]), "bytes": np.array(content, object)}
    made = run("Ray Data")["Embed"]("bundle")(batch)
    np.testing.assert_array_equal(made["embedding"][:2], wanted)
    assert np.isnan(made["embedding"][2]).all()
    assert made["path"] is batch["path"]
    series = [pandas.Series(content[:1]), pandas.Series(content[1:])]
    one, two = run("Spark")["embed"](iter(series))
    np.testing.assert_array_equal(np.stack([one[0], two[0]]), wanted)
    assert np.isnan(two[1]).all()
