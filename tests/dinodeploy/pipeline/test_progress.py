"""Progress on stderr: lines without a terminal, a bar on one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dinodeploy.pipeline import progress


def test_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rate, failures, bottleneck and remaining time, every few seconds."""
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    with progress.image_progress(1000) as advance:
        for done in range(0, 301, 10):
            now = done / 20
            advance(done, done // 100, "decode")
        now += 60
        advance(300, 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "101/1000 images, 20.2/s, 1 failed, waits for decode, 0:00:45 left",
        "202/1000 images, 20.2/s, 2 failed, waits for decode, 0:00:40 left",
        "303/1000 images, 20.2/s, 3 failed, waits for decode, 0:00:35 left",
        "303/1000 images, 4.0/s, 3 failed, 0:02:53 left",
    ]


def test_lines_without_a_total(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    with progress.image_progress(None) as advance:
        now = 10.0
        advance(20, 0)
    assert capsys.readouterr().err == "20 images, 2.0/s, 0 failed\n"


def test_a_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with progress.image_progress(10, console) as advance:
        advance(4, 1, "engine")
    assert "1 failed, waits for engine" in screen.getvalue()
    assert "5/10" in screen.getvalue()


def test_an_engine_build_has_lines_or_a_bar(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.build_progress() as (report, log):
        log("building the engine")
        report(0.25, "Timing tactics")
    first, second = capfd.readouterr().err.splitlines()
    assert first.endswith("s] building the engine")
    assert second.endswith("s] 25% Timing tactics")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.build_progress() as (report, log):
        log("building the engine")
        report(0.25, "Timing tactics")
    shown = capfd.readouterr()
    assert "Timing tactics" in shown.err
    assert "25%" in shown.err
    assert shown.out == ""
