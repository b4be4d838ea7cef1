"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 5.0  # between lines where there is no terminal

Log = Callable[[str], None]
ReportBuild = Callable[[float, str], None]


class Advance(Protocol):
    """Called with how many images are done and failed, and the stage that is waited for most, if known."""

    def __call__(self, done: int, failed: int, bottleneck: str = "") -> None: ...


def stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def image_progress(
    total: int | None, console: Console | None = None, doing: str = "embedding"
) -> Iterator[Advance]:
    """Images done, rate, remaining time, failures and bottleneck. total: None if unknown."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()  # rich takes time to import
    if console is None and on_terminal and importlib.util.find_spec("rich"):  # a standalone file has no rich
        console = stderr()
    started = last = time.perf_counter()

    def describe(done: int, failed: int, bottleneck: str) -> str:
        rate = (done + failed) / max(time.perf_counter() - started, 1e-9)
        return f"{rate:.1f}/s, {failed} failed" + (f", waits for {bottleneck}" if bottleneck else "")

    if console is None or not console.is_terminal:

        def line(done: int, failed: int, bottleneck: str = "") -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last < LINE_SECONDS:
                return
            last = now
            seen, text = done + failed, describe(done, failed, bottleneck)
            if total is None:
                print(f"{seen} images, {text}", file=sys.stderr)
                return
            left = timedelta(seconds=round((total - seen) * (now - started) / max(seen, 1)))
            print(f"{seen}/{total} images, {text}, {left} left", file=sys.stderr)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(doing, total=total)

        def bar(done: int, failed: int, bottleneck: str = "") -> None:
            text = f"{doing} {describe(done, failed, bottleneck)}"
            progress.update(task, completed=done + failed, description=text)

        yield bar


@contextmanager
def step_progress() -> Iterator[Log]:
    """A function that shows the current step: in a spinner on a terminal, else as a line with the time."""
    console = stderr()
    if not console.is_terminal:
        yield _timed_lines()
        return
    with console.status("starting") as status:
        yield lambda text: status.update(text)


@contextmanager
def build_progress() -> Iterator[tuple[ReportBuild, Log]]:
    """Two functions for an engine build: `report(fraction, phase)` and `log(text)` for each new step."""
    console = stderr()
    last = time.perf_counter()
    if not console.is_terminal:
        line = _timed_lines()

        def report(fraction: float, phase: str) -> None:
            nonlocal last
            if time.perf_counter() - last >= LINE_SECONDS:
                last = time.perf_counter()
                line(f"{fraction:.0%} {phase}")

        yield report, line
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        yield (
            lambda fraction, phase: progress.update(task, completed=fraction, description=phase),
            lambda text: progress.update(task, description=text),
        )


def _timed_lines() -> Log:
    started = time.perf_counter()
    return lambda text: print(f"[{time.perf_counter() - started:6.1f} s] {text}", file=sys.stderr)
