"""What is uploaded, of a bundle and of a folder for transformers.js."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.errors import BundleError, TamperedError
from dinodeploy.hub.contents import read_contents
from dinodeploy.hub.push import push
from dinodeploy.hub.reference import parse
from tests.support.hub.server import Hub

TOY = Path(__file__).parents[2] / "data" / "format1_bundle"
CARD = "---\nlibrary_name: transformers.js\nlicense: other\n---\n# x\n"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """As `export --layout transformers` writes it, with files of the user beside."""
    folder = tmp_path / "dinov3-small"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"graph")
    (folder / "onnx" / "model.onnx_data").write_bytes(b"weights")
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE.txt").write_text("The weights in this bundle:\n\nUnder a licence.\n")
    (folder / "secret.env").write_text("x")
    (folder / "onnx" / "link.onnx").symlink_to("/etc/passwd")
    return folder


def test_of_a_bundle() -> None:
    contents = read_contents(TOY, parse("org/many/fp32"))
    names = {*(path.name for path in TOY.iterdir()), "LICENSE.txt"}
    assert set(contents.files) == {f"fp32/{name}" for name in names}
    assert contents.hashes["fp32/model.onnx"] == open_bundle(TOY).manifest.files["model.onnx"].sha256
    assert "DINOv3 License" in contents.licence
    assert contents.title == "custom fp32"


def test_a_bundle_is_verified(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TOY, tmp_path / "bundle"))
    (folder / "model.cls.onnx").write_bytes(b"")
    with pytest.raises(TamperedError):
        read_contents(folder, parse("org/toy"))


def test_of_a_folder_for_transformers(layout: Path) -> None:
    contents = read_contents(layout, parse("org/web"))
    assert set(contents.files) == {
        *("config.json", "preprocessor_config.json", "README.md", "LICENSE.txt"),
        *("onnx/model.onnx", "onnx/model.onnx_data"),
    }
    assert contents.licence == "Under a licence."
    assert contents.bundle is None


def test_another_folder_is_refused(layout: Path) -> None:
    (layout / "LICENSE.txt").unlink()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        read_contents(layout, parse("org/web"))


def test_both_in_one_repository(hub: Hub, layout: Path) -> None:
    pushed = push(layout, "org/web")
    assert not pushed.is_bundle
    assert hub.files("org/web")["README.md"].decode() == CARD
    assert push(layout, "org/web").uploaded == {}
    push(TOY, "org/web/bundle")
    card = hub.files("org/web")["README.md"].decode()
    assert "library_name: transformers.js" in card
    assert "hf://org/web/bundle" in card
    assert hub.files("org/web")["onnx/model.onnx"] == b"graph"
