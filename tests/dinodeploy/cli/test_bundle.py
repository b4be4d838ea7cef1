"""`bundle push` and `pull`, and hf:// as the engine of every command, against the hub's own client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from dinodeploy.errors import MisuseError
from dinodeploy.web.packages import RUNTIME
from tests.support.hub.server import WRITER, Hub, serve_hub
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

TOY = Path(__file__).parents[2] / "data" / "format1_bundle"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    with serve_hub(tmp_path, monkeypatch) as hub:
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, kind in (("chelsea", "cat"), ("coffee", "cup"), ("rocket", "cat"), ("astronaut", "cup")):
        folder = tmp_path / "photos" / kind
        folder.mkdir(parents=True, exist_ok=True)
        photograph(name).resize((96, 96)).save(folder / f"{name}.png")
    return tmp_path / "photos"


def test_push_pull_and_embed(hub: Hub, photos: Path, tmp_path: Path, run: CommandLine) -> None:
    shutil.copytree(TOY, tmp_path / "bundle")
    dry = run("bundle", "push", "bundle", "org/toy", "--dry-run")
    assert dry.code == 0, dry.err
    assert "makes the public repository org/toy" in dry.err
    assert "upload     model.onnx  339,724 bytes" in dry.err
    assert "DINOv3 License" in dry.err
    assert "nothing was changed (--dry-run)" in dry.out
    pushed = run("bundle", "push", "bundle", "org/toy", "--message", "first", "--json")
    assert pushed.code == 0, pushed.err
    assert pushed.json["commit"] == hub.head("org/toy")
    assert pushed.json["engine"] == "hf://org/toy"
    assert "nothing to upload" in run("bundle", "push", "bundle", "org/toy").out
    pulled = run("bundle", "pull", f"org/toy@{pushed.json['commit']}", "copy")
    assert pulled.code == 0, pulled.err
    assert pulled.out.startswith(f"copy: 5 files of hf://org/toy@{pushed.json['commit']}, verified")
    assert run("bundle", "verify", "copy").code == 0
    for engine, out in (("copy", "a"), ("hf://org/toy", "b")):
        ran = run("embed", photos, "--engine", engine, "--out", out, "--device", "onnxruntime", "--json")
        assert (ran.code, ran.json["embedded"]) == (0, 4), ran.err
    assert ran.json["engine"] == f"hf://org/toy/model.cpu.cls.onnx@{pushed.json['commit']}"
    assert (load_embeddings("a")[1] == load_embeddings("b")[1]).all()  # type: ignore[union-attr,attr-defined]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("bundle", "push", TOY, "org"), 2, "wanted hf://ORG/NAME"),
        (("bundle", "push", TOY, "org/toy@v1", "--revision", "v2"), 2, "give one"),
        (("bundle", "push", "nothing", "org/toy"), 2, "no such bundle"),
        (("bundle", "pull", "org/none", "x"), 4, "no repository org/none"),
        (("embed", "photos", "--engine", "hf://org/none"), 4, "no repository org/none"),
        (("embed", "photos", "--engine", "hf://datasets/org/x"), 2, "is in datasets"),
        (("bundle", "sign", "hf://org/toy", "--key", "k"), 2, "bundle pull org/toy@"),
        (("build", "hf://org/toy", "--target", "rtx"), 2, "build changes a folder; copy it first"),
    ],
)
def test_what_is_refused(
    hub: Hub, photos: Path, run: CommandLine, arguments: tuple[object, ...], code: int, words: str
) -> None:
    if arguments[0] == "build":
        pytest.importorskip("torch")
    hub.hold("org/toy", TOY)
    ran = run(*arguments)
    assert (ran.code, len(ran.error.splitlines())) == (code, 1), ran.err
    assert words in ran.error


def test_push_without_a_token(hub: Hub, run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ran = run("bundle", "push", TOY, "org/toy")
    assert ran.code == 4
    assert "hf auth login, or set HF_TOKEN" in ran.error


def test_look_at_a_bundle_on_the_hub(hub: Hub, run: CommandLine) -> None:
    """Nothing large is downloaded for it."""
    hub.hold("org/toy", TOY)
    pytest.importorskip("onnx")
    shown = run("inspect", "hf://org/toy", "--json")
    assert shown.code == 0, shown.err
    assert shown.json["source"] == f"hf://org/toy@{hub.head('org/toy')}"
    assert shown.json["operators"]
    assert set(hub.downloaded()) == {"manifest.json", "parity.json", "model.onnx"}
    checked = run("check", "hf://org/toy", "--device", "onnxruntime", "--json")
    assert (checked.code, checked.json["bundle"]) == (0, shown.json["source"])
    assert "model.cls.onnx" not in hub.downloaded()
    assert run("bundle", "verify", "hf://org/toy", "--json").json["files"] == 5
    assert {"model.cls.onnx", "model.cpu.cls.onnx"} <= set(hub.downloaded())
    assert run("bundle", "pack", "hf://org/toy").code == 0
    assert Path("toy.zip").is_file()


@pytest.mark.slow
def test_every_command_that_takes_an_engine_takes_one_on_the_hub(
    hub: Hub, photos: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    """In the order in which they need one another's results."""
    for package in ("lance", "scipy", "jinja2", "polygraphy"):
        pytest.importorskip(package)
    Path("ort").mkdir()
    for name in RUNTIME.files:
        Path("ort", name).write_text("")
    hub.hold("org/tiny", tiny_bundle)
    from dinodeploy.search.index import Index

    commit = hub.head("org/tiny")
    engine = "hf://org/tiny"
    size = ("--imgsz", "64")
    first = photos / "cat" / "chelsea.png"
    data = ("train-head", "--task", "classify", "--data", photos, "--engine", engine)
    for command in (
        ("embed", photos, "--engine", engine, "--out", "out", *size),
        ("index", "out", "--engine", engine),
        ("search", "out", "--image", first),
        ("search", "out", "--image", first, "--engine", f"{engine}@{commit}"),
        (*data, "--test", photos, "--out", "head.safetensors", "--no-cache"),
        ("add-head", engine, "--head", "head.safetensors", "--out", "headed"),
        ("visualize", photos, "--engine", engine, "--out", "maps", *size),
        ("triton", engine, "repository", "--device", "cpu"),
        ("web", engine, "site", "--runtime", "ort"),
        ("debug", engine, "--out", "debugged"),
        ("doctor", engine),
        ("check", engine, "--against", engine, "--images", photos, "-k", "1"),
        ("bench", engine, "--batch", "1", *size, "--rounds", "1", "--threads", "1"),
        ("bundle", "push", "headed", "org/headed"),
        ("predict", first, "--engine", "hf://org/headed", "--out", "predictions", *size),
    ):  # fmt: skip
        ran = run(*command)
        assert ran.code == 0, f"{command}: {ran.err}"
    with Index.open("out") as index:
        recorded = index.manifest.engine
    assert recorded == f"hf://org/tiny@{commit}", "an index means the commit, wherever the branch goes"


@pytest.mark.slow
def test_the_commands_of_words(
    hub: Hub, photos: Path, words_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    hub.hold("org/words", words_bundle)
    Path("labels.txt").write_text("stripes\ndots\n")
    for command in ("classify", "segment"):
        ran = run(command, photos, "--engine", "hf://org/words", "--labels", "labels.txt", "--out", command)
        assert ran.code == 0, ran.err


def test_a_service_is_of_one_commit(hub: Hub, run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers start later, and again when one dies."""
    pytest.importorskip("fastapi")
    from dinodeploy.cli import serve

    hub.hold("org/toy", TOY)
    seen: list[object] = []

    def settings(**options: object) -> None:
        seen.append(options["bundle"])
        raise MisuseError("seen")

    monkeypatch.setattr(serve, "Settings", settings)
    assert run("serve", "hf://org/toy").error == "error: seen"
    assert seen == [f"hf://org/toy@{hub.head('org/toy')}"]
