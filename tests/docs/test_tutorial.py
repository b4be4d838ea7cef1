"""docs/tutorial.md: every command and the Python at its end run, in order, with the demo's tiny model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
MODEL = ["--weights", str(ROOT / "examples" / "models" / "toy_vit"), "--imgsz", "64"]


def commands() -> list[list[str]]:
    """The words of every line of a shell fence."""
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_every_command_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine
) -> None:
    pytest.importorskip("lance", reason="needs the extra search")
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from tests.support.processes.service_process import serving

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee", "retina"):
        photograph(name).resize((160, 120)).save(tmp_path / "photos" / f"{name}.jpg")
    photograph("coffee").resize((120, 90)).save(tmp_path / "query.jpg")

    names = []
    for program, *words in commands():
        names.append(words[0] if program == "dinodeploy" else program)
        if program == "pip":
            continue
        if words[0] == "export":  # the released weights need a network
            assert words[1:5] == ["--arch", "vit_small", "--weights", "hub"]
            words[1:5] = MODEL
        if words[0] == "serve":
            with serving(Path(words[1]), *words[2:]) as service:
                assert "<html" in service.client.get("/").text
            continue
        ran = run(*words)
        assert ran.code == 0, (words, ran.err)
    assert names == [
        "pip", "export", "embed", "index", "search", "serve", "dedupe", "visualize",
    ]  # fmt: skip
    for page in ("results.html", "duplicates.html", "maps.html"):
        assert (tmp_path / page).is_file()
    exec(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0], {})
