"""`--require-signature` is in every command that opens a bundle, and each of them enforces it."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dinodeploy.bundle.archive import pack
from dinodeploy.bundle.signing import sign
from dinodeploy.cli.app import make_app
from dinodeploy.cli.evaluate import TASKS
from tests.dinodeploy.bundle.test_signing import make_key
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

# Commands that open no bundle, and `sign`, whose bundle has no signature yet.
ON_HUB = {"bundle pull"}  # opens no local bundle; tests/dinodeploy/hub/test_pull.py
# Their options are read by the evaluation: tests/dinodeploy/cli/test_evaluate.py and below.
PASSED_ON = {f"evaluate {task}" for task in TASKS}
WITHOUT = {"export", "convert", "ranges", "dedupe", "merge", "bundle sign"}


def commands(group: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        own = f"{prefix}{name}"
        found |= commands(command, f"{own} ") if hasattr(command, "commands") else {own: command}
    return found


@pytest.fixture
def place(tiny_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a key, a signed bundle and what the commands need beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "private"))
    (tmp_path / "private").mkdir()
    make_key(tmp_path, "key")
    sign(shutil.copytree(tiny_bundle, tmp_path / "signed"), tmp_path / "key.pem")
    for label in ("cat", "dog"):
        (tmp_path / "labelled" / label).mkdir(parents=True)
        for number, name in enumerate(("chelsea", "rocket", "coffee")):
            photograph(name).resize((64, 64)).save(tmp_path / "labelled" / label / f"{number}.png")
    assert run("embed", "labelled", "--engine", "signed", "--out", "embeddings").code == 0
    pack(Path("signed"), Path("signed.zip"))
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    return tmp_path


BUNDLE = "BUNDLE"
COMMANDS: dict[str, tuple[str, ...]] = {
    "add-head": (BUNDLE, "--head", "head.safetensors", "--out", "o"),
    "bench": (BUNDLE, "--rounds", "1", "--batch", "1", "--imgsz", "64"),
    "build": (BUNDLE,),
    "bundle pack": (BUNDLE, "--out", "o"),
    "bundle push": (BUNDLE, "org/name", "--dry-run"),
    "bundle unpack": ("ARCHIVE", "--out", "o"),
    "bundle verify": (BUNDLE,),
    "check": (BUNDLE,),
    "classify": ("labelled", "--engine", BUNDLE, "--labels", "labels.txt"),
    "debug": (BUNDLE, "--out", "o"),
    "doctor": (BUNDLE,),
    "embed": ("labelled", "--engine", BUNDLE, "--out", "o"),
    "index": ("embeddings", "--engine", BUNDLE),
    "evaluate knn": ("--engine", BUNDLE, "--train", "labelled", "--test", "labelled"),
    "inspect": (BUNDLE,),
    "predict": ("labelled", "--engine", BUNDLE),
    "segment": ("labelled", "--engine", BUNDLE, "--labels", "labels.txt", "--out", "o"),
    "search": ("embeddings", "--image", "labelled/cat/0.png", "--engine", BUNDLE),
    "serve": (BUNDLE, "--port", "0"),
    "train-head": ("--task", "classify", "--data", "labelled", "--engine", BUNDLE, "--out", "o.safetensors"),
    "triton": (BUNDLE, "o"),
    "web": (BUNDLE, "o"),
    "visualize": ("labelled/cat/0.png", "--engine", BUNDLE, "--out", "o"),
}


def test_every_command_that_opens_a_bundle_has_the_option() -> None:
    found = {
        name
        for name, command in commands(typer.main.get_command(make_app())).items()
        if any("--require-signature" in parameter.opts for parameter in command.params)
    }
    assert found == (set(COMMANDS) | ON_HUB) - PASSED_ON
    assert set(commands(typer.main.get_command(make_app()))) - found == WITHOUT | PASSED_ON


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_enforces_it(command: str, place: Path, tiny_bundle: Path, run: CommandLine) -> None:
    if command in PASSED_ON:
        pytest.importorskip("torch")
    if command == "search":
        assert run("index", "embeddings").code == 0
    with (place / "signed" / "model.onnx.data").open("r+b") as file:
        file.write(b"evil")
    unsigned = shutil.copytree(tiny_bundle, place / "unsigned")
    hiding = shutil.copytree(tiny_bundle, place / "hiding")
    sign(hiding, place / "key.pem")
    (hiding / ".git").mkdir()
    for bundle, words in (
        (place / "signed", "not the file that was signed"),
        (unsigned, "is not signed"),
        (hiding, "'.git'"),
    ):
        if command == "bundle unpack":  # an archive holds no folder, and pack verifies what it packs
            if bundle != unsigned:
                continue
            pack(bundle, place / "packed.zip", overwrite=True)
        words_of = [
            str(bundle) if word == BUNDLE else "packed.zip" if word == "ARCHIVE" else word
            for word in COMMANDS[command]
        ]
        before = sorted(path.name for path in place.iterdir())
        ran = run(*command.split(), *words_of, "--require-signature", "key.pub")
        assert (ran.code, words in ran.error) == (2, True), (command, ran.err)
        assert sorted(path.name for path in place.iterdir()) == before
    assert list((place / "private").iterdir()) == []


# A server, a GPU library, a head, a text graph, the hub, a browser: more than the tiny bundle has.
NEED_MORE = {"serve", "build", "predict", "classify", "segment", "bundle push", "web"}


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - NEED_MORE))
def test_a_signed_bundle_works_everywhere(command: str, place: Path, run: CommandLine) -> None:
    if command == "search":
        assert run("index", "embeddings").code == 0
    if command == "add-head":
        head = [word.replace("o.safetensors", "head.safetensors") for word in COMMANDS["train-head"]]
        assert run("train-head", *(word.replace(BUNDLE, "signed") for word in head)).code == 0
    given = {BUNDLE: "signed", "ARCHIVE": "signed.zip"}
    words = [given.get(word, word) for word in COMMANDS[command]]
    ran = run(*command.split(), *words, "--require-signature", "key.pub")
    assert ran.code == 0, ran.err
    assert "dinodeploy-private" not in ran.out + ran.err  # messages name the user's folder
    gc.collect()  # errors of devices that cannot run refer to their frames
    assert list((place / "private").iterdir()) == []
