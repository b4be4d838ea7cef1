"""Standard streams that fail: on pipes and devices, and as a shell gives them to a command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from dinodeploy.cli.streams import safe_stream

NAME = "日本/caf\udce9 ☂"
ENCODINGS = ("ascii", "cp1252", "cp437", "latin-1", "cp932", "utf-8", "utf-16", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_carries_every_name(encoding: str) -> None:
    raw = io.BytesIO()
    stream = safe_stream(io.TextIOWrapper(raw, encoding))
    stream.write(NAME + "\n")
    stream.flush()
    written = raw.getvalue().decode(encoding)
    assert written.endswith("\n")
    assert "caf\\udce9" in written
    assert "\r" not in written


def opened(file: BinaryIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, "utf-8")


def test_a_closed_pipe_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with safe_stream(opened(os.fdopen(writing, "wb"))) as stream:
        for _ in range(3):
            stream.write("x" * 100_000)
            stream.flush()
        assert stream.failure is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_failure() -> None:
    with safe_stream(opened(Path("/dev/full").open("wb"))) as stream:
        stream.write("x")
        assert stream.failure is None
        stream.flush()
        assert stream.failure is not None
        stream.write("y")
        stream.flush()


# ---- as a shell runs it --------------------------------------------------------------------------

SCRIPT = """
import sys
from dinodeploy.cli.output import log, print_json, run_command, say
def command():
    log("at work")
    say("日本 \\udce9 " * int(sys.argv[1]))
    print_json({"name": "日本 \\udce9"})
    open(sys.argv[2], "w").close()
    return int(sys.argv[3])
sys.exit(run_command(command))
"""


def shell(
    line: str, tmp_path: Path, lines: int = 1, code: int = 0, **settings: str
) -> tuple[int, bytes, bytes]:
    """Exit code of the command, and what came through. `COMMAND` in `line` is the command."""
    script = tmp_path / "command.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = tmp_path / "done"
    done.unlink(missing_ok=True)
    command = f"{sys.executable} {script} {lines} {done} {code}"
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('COMMAND', command)}"],
        env={**os.environ, "PYTHONPATH": str(root), **settings},
        capture_output=True,
    )
    assert done.exists(), "the work was done, whatever happened to the output"
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("code", [0, 5])
def test_a_closed_pipe_changes_nothing(tmp_path: Path, lines: int, code: int) -> None:
    ran, out, err = shell("COMMAND | head -c 1 > /dev/null", tmp_path, lines, code)
    assert (ran, out, err) == (code, b"", b"at work\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_full_disk_ends_with_4(tmp_path: Path, lines: int) -> None:
    ran, _, err = shell("COMMAND > /dev/full", tmp_path, lines)
    assert ran == 4
    assert err == b"at work\nerror: standard output: the disk is full; the command itself has succeeded\n"
    assert shell("COMMAND > /dev/full", tmp_path, lines, 5)[0] == 5
    assert shell("COMMAND 2> /dev/full", tmp_path)[0] == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_descriptors(tmp_path: Path, closed: str) -> None:
    assert shell(f"COMMAND {closed}", tmp_path)[0] == 0
    assert (tmp_path / "done").read_bytes() == b"", "no output went into a file"


@pytest.mark.parametrize(
    "settings",
    [
        *({"PYTHONIOENCODING": encoding} for encoding in ("ascii", "cp1252", "cp437", "utf-16")),
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ":strict"},
    ],
)
def test_json_is_ascii_under_every_setting(tmp_path: Path, settings: dict[str, str]) -> None:
    ran, out, _ = shell("COMMAND", tmp_path, 0, **settings)
    assert ran == 0
    text = out.decode("utf-16" if settings.get("PYTHONIOENCODING") == "utf-16" else "ascii")
    assert json.loads(text) == {"name": "日本 \udce9"}
