"""The folder of `dinodeploy web`: complete, of one model, and nothing after a failure."""

from __future__ import annotations

import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import GOLDEN_FILE
from dinodeploy.bundle.manifest import read_manifest, write_manifest
from dinodeploy.errors import MisuseError, OutputExistsError, TamperedError
from dinodeploy.web.packages import RUNTIME
from dinodeploy.web.site import write_site


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    (tmp_path / "ort").mkdir()
    for name in RUNTIME.files:
        (tmp_path / "ort" / name).write_text("")
    return tmp_path / "ort"


def test_files(tiny_bundle: Path, tmp_path: Path, runtime: Path) -> None:
    site = write_site([tiny_bundle], tmp_path / "site", runtime=runtime)
    names = {str(path.relative_to(site.root)) for path in site.root.rglob("*") if path.is_file()}
    assert names == {
        *("index.html", "LICENSE.txt", GOLDEN_FILE, "fp32/model.onnx", "fp32/model.onnx.data"),
        *(f"runtime/{name}" for name in RUNTIME.files),
    }
    assert (site.root / GOLDEN_FILE).read_bytes() == (tiny_bundle / GOLDEN_FILE).read_bytes()
    page = unescape((site.root / "index.html").read_text())
    assert read_manifest(tiny_bundle).licence in page
    assert "The weights are random" in page
    with pytest.raises(OutputExistsError, match="give --overwrite"):
        write_site([tiny_bundle], site.root, runtime=runtime)
    write_site([tiny_bundle], site.root, runtime=runtime, overwrite=True)


def changed(bundle: Path, **changes: object) -> Path:
    manifest = read_manifest(bundle)
    graph = replace(manifest.graph, recipe=str(changes.pop("recipe", manifest.graph.recipe)))
    write_manifest(replace(manifest, graph=graph, **changes), bundle)  # type: ignore[arg-type]
    return bundle


def test_what_no_browser_runs(own_bundle: Path, tmp_path: Path, runtime: Path) -> None:
    with pytest.raises(MisuseError, match="is bf16, which no browser runs; wanted fp32, fp16, int8"):
        write_site([changed(own_bundle, recipe="bf16")], tmp_path / "site", runtime=runtime)
    assert not (tmp_path / "site").exists()


def test_bundles_of_one_model(tiny_bundle: Path, own_bundle: Path, tmp_path: Path, runtime: Path) -> None:
    with pytest.raises(MisuseError, match="wanted each precision once"):
        write_site([tiny_bundle, own_bundle], tmp_path / "site", runtime=runtime)
    preprocess = replace(read_manifest(own_bundle).preprocess, mean=(0.1, 0.2, 0.3))
    other = changed(own_bundle, preprocess=preprocess)
    with pytest.raises(MisuseError, match="is another model than"):
        write_site([tiny_bundle, other], tmp_path / "site", runtime=runtime)


def test_a_damaged_bundle_is_not_published(own_bundle: Path, tmp_path: Path, runtime: Path) -> None:
    with (own_bundle / "model.onnx.data").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(TamperedError):
        write_site([own_bundle], tmp_path / "site", runtime=runtime)
    assert not (tmp_path / "site").exists()


def test_other_folders_are_left_alone(tiny_bundle: Path, tmp_path: Path, runtime: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/thesis.tex").write_text("…")
    with pytest.raises(OutputExistsError, match="no page of"):
        write_site([tiny_bundle], tmp_path / "site", runtime=runtime, overwrite=True)
    shutil.rmtree(tmp_path / "site")
