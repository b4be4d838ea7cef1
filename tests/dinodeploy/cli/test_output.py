"""What is told while a command works."""

from __future__ import annotations

import pytest

from dinodeploy.cli import output


def test_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rate, failures, what holds it up, and how long it will take: every few seconds, on stderr."""
    now = 0.0
    monkeypatch.setattr(output.time, "perf_counter", lambda: now)
    with output.picture_progress(1000) as advance:
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


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(output, "stderr", lambda: console)
    with output.picture_progress(10) as advance:
        advance(4, 1, "engine")
    assert "1 failed, waits for engine" in screen.getvalue()
    assert "5/10" in screen.getvalue()
