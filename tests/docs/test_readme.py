"""README and docs: first commands and Python run; commands, options, files and links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dinodeploy.cli.app import make_app
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples" / "README.md"
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", EXAMPLES, *sorted(DOCS.rglob("*.md"))]
# docs/spec.md describes the official code: its options are not ours
WITH_COMMANDS = [page for page in PAGES if page.name != "spec.md"]
EVALUATIONS = ("knn", "linear", "logistic", "segmentation", "depth")
FOLDERS = ("dinodeploy", "exporters", "dinov3_ref", "tests", "benchmarks", "examples", "containers")
_OTHER_NAMES = (
    r"dinov3_ref\.\w+|torchrun|pip|docker|tritonserver|curl|optimum-cli|serve_load|serve_attack|"
    r"triton_client"
)
OTHERS = rf"`polygraphy [^`]*`|`pytest [^`]*`|.*\b(?:{_OTHER_NAMES})\b.*|.* -m venv .*"


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_first_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine) -> None:
    """Every `dinodeploy` line of the first fence, in a folder with photos/."""
    with_photos(tmp_path, monkeypatch)
    commands = [shlex.split(line, comments=True) for line in fences("sh")[0].splitlines()]
    ours = [arguments[1:] for arguments in commands if arguments[0] == "dinodeploy"]
    assert [arguments[0] for arguments in ours] == ["export", "embed"]
    for arguments in ours:
        ran = run(*arguments)
        assert ran.code == 0, ran.err


@pytest.mark.slow
def test_the_first_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fence below it, with the shapes that its comments promise."""
    with_photos(tmp_path, monkeypatch)
    names: dict[str, Any] = {}
    exec(fences("python")[0], names)
    assert names["vectors"].shape == (2, 384)
    assert names["vector"].shape == (384,)
    assert names["report"].embedded == 2


@pytest.mark.slow
def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    """The table of neighbours, and the line below it. The error in the last line depends on the CPU."""
    command = [sys.executable, "examples/demo.py", str(tmp_path / "demo")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    shown = README.split("demo output: begin -->")[1].split("<!-- demo output: end")[0]
    lines = [line for line in shown.splitlines() if line.startswith(("┃", "│", "10 photographs"))]
    assert len(lines) == 12
    for line in lines:
        assert line in ran.stdout, line


def with_photos(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `folder` the current one, with two photographs in photos/."""
    monkeypatch.chdir(folder)
    (folder / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        photograph(name).save(folder / "photos" / f"{name}.jpg")


def test_it_is_short_and_has_an_image_and_a_comparison() -> None:
    assert len(README.splitlines()) <= 130
    assert re.search(r"^!\[.+\]\(docs/images/", README, re.MULTILINE)
    assert "| | dinodeploy |" in README


def test_used_within_twenty_lines() -> None:
    assert "dinodeploy embed" in "\n".join(README.splitlines()[:20])


def options_of(command: Any) -> set[str]:
    """Every option of a command and of the commands below it."""
    own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own.union({"--help"}, *(options_of(inner) for inner in getattr(command, "commands", {}).values()))


def options_of_evaluations() -> set[str]:
    """The options that `dinodeploy evaluate` passes on, and those of engines."""
    parsers = [import_module(f"dinov3_ref.eval.{task}").parser() for task in EVALUATIONS]
    return {
        "--engine",
        *(option for one in parsers for action in one._actions for option in action.option_strings),
    }


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_command_and_option_exists(page: Path) -> None:
    """Of `dinodeploy`. A line that names another program may have that program's options."""
    group = typer.main.get_command(make_app())
    known = options_of(group)
    if page.stem == "evaluation":
        known |= options_of_evaluations()
    text = re.sub(OTHERS, "", page.read_text(encoding="utf-8"))
    for command in re.findall(r"^(?: {4}|\| `)?dinodeploy ([a-z-]+)\b", text, re.MULTILINE):
        assert command in group.commands, command  # type: ignore[attr-defined]
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)):
        assert option in known, option


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_file_and_link_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_every_example_is_listed_and_numbered() -> None:
    listed = re.findall(r"^\| \[([\w.]+)\]\(\1\)", EXAMPLES.read_text(encoding="utf-8"), re.MULTILINE)
    there = [path.name for path in EXAMPLES.parent.iterdir() if path.name[0] not in "._"]
    assert sorted(listed) == sorted({*there} - {"README.md", "models"})
    assert [name[:2] for name in listed if name[0].isdigit()] == [f"{number:02}" for number in range(1, 9)]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_exit_codes_are_the_documented_ones() -> None:
    """errors.py, app.py and the README tell the same story."""
    from dinodeploy import errors

    assert errors.JudgementError.exit_code == 1
    assert errors.MisuseError.exit_code == errors.BundleError.exit_code == 2
    assert errors.ExportError.exit_code == 3
    assert errors.UnavailableError.exit_code == 4
    flat = " ".join(README.split())
    for words in (
        "1 judged and failed",
        "2 misuse or bad input",
        "3 export or build failed",
        "4 this machine can't",
        "5 done in part",
    ):
        assert words in flat, words


def test_no_placeholder_is_left() -> None:
    assert all(
        fence.strip() for fence in re.findall(r"^```text\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    )
