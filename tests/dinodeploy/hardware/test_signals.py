"""A signal ends a command with one line and its exit code, whatever other packages make of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from dinodeploy.hardware import signals
from tests.support.processes.kill_runner import ROOT

PHOTO = ROOT / "exporters/photos/chelsea.jpg"
LINE = f"{signals.MESSAGE}\n"
PROGRAM = """
import os, signal, sys, time
from dinodeploy.hardware import signals

def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)

def main():
{body}

signals.run_program(main)
"""
LOST = {
    "nothing": "press(); time.sleep(9)",
    "a bare except": """
try:
    press()
    time.sleep(9)
except BaseException:
    pass
time.sleep(9)
return 0""",
    "the end of an object": """
class Last:
    def __del__(self):
        press()
        time.sleep(9)
Last()
time.sleep(9)
return 0""",
    "an import": """
try:
    try:
        press()
        time.sleep(9)
    except KeyboardInterrupt as error:
        raise ImportError("cannot be loaded") from error
except ImportError:
    pass
return 0""",
    "another error": """
try:
    press()
    time.sleep(9)
except KeyboardInterrupt as error:
    raise SystemError("returned a result with an exception set") from error""",
    "the exit": "import atexit; atexit.register(lambda: (press(), time.sleep(9))); return 0",
}


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Processes inherit ignored signals: under nohup SIGHUP would be ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def run(body: str, before: str = "") -> tuple[int, str, float]:
    """Exit code, all output and seconds of a program whose command is `body`."""
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    started = time.monotonic()
    command = [sys.executable, "-c", before + PROGRAM.format(body=indented)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


@pytest.mark.parametrize("where", LOST)
def test_what_swallows_the_exception_does_not_swallow_the_signal(where: str) -> None:
    code, output, seconds = run(LOST[where])
    assert (code, output) == (130, LINE)
    assert seconds < 8


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_code_is_128_and_the_signal(name: str, code: int) -> None:
    assert run(f"press(signal.{name}); time.sleep(9)")[:2] == (code, LINE)


def test_a_signal_that_comes_twice_does_not_stop_the_clean_up() -> None:
    """A terminal sends it to the whole group, and process managers send it again to each member."""
    body = "try:\n    press()\n    time.sleep(9)\nfinally:\n    press()\n    print('cleaned', flush=True)"
    assert run(body)[:2] == (130, f"cleaned\n{LINE}")


def test_a_later_signal_counts_again() -> None:
    body = (
        "try:\n    press()\n    time.sleep(9)\nfinally:\n    time.sleep(0.7)\n    press()\n    time.sleep(9)"
    )
    code, output, seconds = run(body)
    assert (code, output) == (130, LINE)
    assert seconds < 8


def test_an_ignored_signal_stays_ignored() -> None:
    """As `nohup` and a shell's background leave it."""
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert run("press(signal.SIGHUP); print('done'); return 3", before)[:2] == (3, "done\n")


def test_other_errors_that_python_cannot_raise_are_still_printed() -> None:
    code, output, _ = run(
        "class Last:\n    def __del__(self):\n        raise ValueError('seen')\nLast()\nreturn 0"
    )
    assert code == 0
    assert "ValueError: seen" in output


def test_a_bug_keeps_its_traceback() -> None:
    code, output, _ = run("raise ValueError('a bug')")
    assert code == 1
    assert "Traceback" in output


def test_what_is_registered_for_the_exit_runs_and_output_is_flushed() -> None:
    body = "import atexit; atexit.register(print, 'last'); print('first'); return 5"
    assert run(body)[:2] == (5, "first\nlast\n")
    assert run(body, "import atexit; atexit.register(print, 'registered before')\n")[:2] == (
        5,
        "first\nlast\nregistered before\n",
    )


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes descriptors")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_stream_that_is_closed_from_the_start_is_no_failure(closed: str) -> None:
    for command in (["--version"], ["dedupe", "nothing"]):
        line = f'"$0" -m dinodeploy {" ".join(command)} {closed}'
        done = subprocess.run(
            ["bash", "-c", line, sys.executable], capture_output=True, check=False, cwd=ROOT
        )
        assert done.returncode == (0 if command == ["--version"] else 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_without_streams(number: int) -> None:
    body = f"sys.stdout = sys.stderr = None; press({int(number)}); time.sleep(9)"
    assert run(body)[:2] == (128 + number, "")


def test_output_that_cannot_be_flushed_is_not_success() -> None:
    program = PROGRAM.format(body="    print('x')\n    return 0\n")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            cwd=ROOT,
            env=buffered,
        )
    assert done.returncode == 120


def interrupt(command: list[str], seconds: float, number: int, ended: Path) -> tuple[bool, int, str]:
    """Whether the command still ran after `seconds`, when it got the signal; its exit code and stderr.

    A process that has asked the system to end it, and that the system still takes down, does not run.
    """
    pipe = subprocess.PIPE
    path = os.pathsep.join((str(ROOT / "tests/support/exit_time"), str(ROOT)))
    environment = {**os.environ, "EXIT_TIME": str(ended), "PYTHONPATH": path}
    ended.unlink(missing_ok=True)
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=environment
    ) as process:
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            process.send_signal(number)
        else:
            return False, process.returncode, ""
        _, err = process.communicate(timeout=60)
        return not (ended.exists() and float(ended.read_text()) < now), process.returncode, err


def check_interrupted(command: list[str], seconds: float, number: int, folder: Path) -> bool:
    running, code, err = interrupt(command, seconds, number, folder / "ended")
    told = [line for line in err.splitlines() if not line.startswith("[")]
    if running:
        assert (code, told) == (128 + number, [signals.MESSAGE]), f"after {seconds:.3f} s: {err}"
    hidden = [path.name for path in folder.rglob(".*") if "partial" in path.name or ".old-" in path.name]
    assert hidden == []
    return running


MOMENTS = 6
START = 0.25  # seconds in which Python itself starts, before the first line of ours runs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_embed_is_interrupted_while_it_starts_and_runs_again(
    number: int, tiny_bundle: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "dinodeploy", "embed", str(PHOTO), "--engine", str(tiny_bundle)]
    command += ["--out", str(tmp_path / "out")]
    for seconds in (START, START + 0.2):
        check_interrupted(command, seconds, number, tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(load_embeddings(tmp_path / "out")[0]) == 1


COMMANDS = {
    "embed": ("embed", PHOTO, "--engine", "BUNDLE", "--out", "OUT"),
    "embed with OpenVINO": ("embed", PHOTO, "--engine", "BUNDLE", "--device", "openvino", "--out", "OUT"),
    "check": ("check", "BUNDLE"),
    "visualize": ("visualize", PHOTO, "--engine", "BUNDLE", "--out", "OUT"),
    "index": ("index", "STORE", "--overwrite"),
    "search": ("search", "STORE", "--image", PHOTO, "--engine", "BUNDLE"),
    "serve": ("serve", "BUNDLE", "--port", "0"),
    "doctor": ("doctor", "BUNDLE"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_interrupted_at_any_moment(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    """At random moments of its run, at most two seconds; an undisturbed run afterwards succeeds."""
    python, out, store = [sys.executable, "-m", "dinodeploy"], tmp_path / "out", tmp_path / "store"
    if "STORE" in COMMANDS[name]:
        for step in (
            ["embed", str(PHOTO), "--engine", str(tiny_bundle), "--out", str(store)],
            ["index", str(store)],
        ):
            subprocess.run([*python, *step], check=True, capture_output=True)
    places = {"BUNDLE": tiny_bundle, "OUT": out, "STORE": store}
    command = [*python, *(str(places.get(str(word), word)) for word in COMMANDS[name])]
    rng = random.Random(name)
    begun = time.perf_counter()
    if name != "serve":
        subprocess.run(command, check=True, capture_output=True)
    whole = 2.0 if name == "serve" else min(2.0, max(0.1, time.perf_counter() - begun - START))
    interrupted = 0
    for moment in range(MOMENTS):
        shutil.rmtree(out, ignore_errors=True)
        seconds = START + whole * (moment + rng.random()) / MOMENTS
        if name == "serve" and seconds > START + 0.5:
            break  # it may be ready, and then it finishes open requests and exits with 0
        interrupted += check_interrupted(command, seconds, signal.SIGINT, tmp_path)
    assert interrupted
    shutil.rmtree(out, ignore_errors=True)
    if name != "serve":
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
