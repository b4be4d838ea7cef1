"""docs/hub.md: every command and the Python run, in order, against a hub on this machine."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from tests.support.hub.server import WRITER, serve_hub
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
BUNDLE = ROOT / "tests" / "data" / "format1_bundle"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_every_command_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    shutil.copytree(BUNDLE, "bundle")
    Path("photos").mkdir()
    photograph("chelsea").resize((90, 60)).save("photos/chelsea.jpg")
    names = []
    with serve_hub(tmp_path, monkeypatch) as hub:
        monkeypatch.setenv("HF_TOKEN", WRITER)  # what `hf auth login` leaves
        for line in "".join(fences("sh")).splitlines():
            program, *words = shlex.split(line)
            if program in ("pip", "hf"):
                continue
            if "COMMIT" in line:
                words = [word.replace("COMMIT", hub.head("you/vit-small")) for word in words]
            ran = run(*words)
            assert ran.code == 0, (words, ran.err)
            names.append(" ".join(words[:2]) if words[0] == "bundle" else words[0])
        for code in fences("py"):
            scope: dict[str, object] = {}
            exec(code, scope)
            assert scope["vector"] is not None
    assert names == [
        *("bundle push", "bundle push", "embed", "check", "inspect"),
        *("bundle pull", "bundle verify", "embed"),
    ]
    assert (load_embeddings("embeddings")[1] == load_embeddings("pinned")[1]).all()  # type: ignore[union-attr,attr-defined]
    assert [path.name for path in Path("xdg/dinodeploy/hub").iterdir()] == ["you--vit-small"]


def test_the_options_of_push_are_told() -> None:
    from tests.dinodeploy.cli.test_cli import OPTIONS

    told = set(re.findall(r"`--([\w-]+)", PAGE))
    assert set(OPTIONS["bundle push"].split()) - {"branch", "json"} <= told
