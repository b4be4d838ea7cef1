"""docs/words.md: every command and the Python run, in order, with the toy model that knows words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.processes.command_line import CommandLine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
ELSEWHERE = ("## The released model", "## Over HTTP", "## Train your own")  # need files, a server, minutes
TRIED = "".join(part for part in re.split(r"(?=^## )", PAGE, flags=re.M) if not part.startswith(ELSEWHERE))


def commands() -> list[list[str]]:
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", TRIED, re.DOTALL | re.MULTILINE)).splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_every_command_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine
) -> None:
    for package in ("lance", "tokenizers", "jinja2"):
        pytest.importorskip(package)
    from dinov3_ref.data.toy.captions import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names = []
    for program, *words in commands():
        names.append(words[0] if program == "dinodeploy" else program)
        if program == "python":
            assert words[:2] == ["-m", "dinov3_ref.data.toy.captions"]
            assert main([*words[2:], "--images", "1", "--test", "60"]) == 0
        elif program == "printf":
            text, arrow, file = words
            assert arrow == ">"
            Path(file).write_text(text.replace("\\n", "\n"))
        elif program == "dinodeploy":
            ran = run(*words)
            assert ran.code == 0, (words, ran.err)
    assert names == [
        *("pip", "python", "export", "embed", "index", "search", "search"),
        *("printf", "classify", "printf", "segment"),
    ]
    assert "00004.jpg" in (tmp_path / "found.html").read_text("utf-8")
    exec(re.findall(r"^```python\n(.*?)^```$", TRIED, re.DOTALL | re.MULTILINE)[0], {})


def test_the_recipe_and_the_keys_exist() -> None:
    from dinov3_ref.configs import load_config

    (line,) = re.findall(r"^python -m dinov3_ref.train (.*)$", PAGE, re.M)
    words = line.split()
    assert words[:2] == ["--config", "toy_text"]
    config = load_config(words[1], words[2:])
    assert config.text.vocab_size == 604
