"""Results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dinodeploy.errors import MisuseError, one_line

DEVICE_HELP = (
    "Where to run: auto, cpu, onnxruntime, openvino, cuda, tensorrt. auto: the best that can run here."
)
REQUIRE_SIGNATURE_HELP = "A public key in PEM: without its signature over the whole bundle, nothing is read."
WEIGHT_BUDGET_HELP = (
    "GiB of weights that a weight-streaming plan keeps on the GPU. Default: TensorRT's choice."
)
PLAIN_LINE_SECONDS = 5.0  # between progress lines where there is no terminal


def stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def stdout() -> Console:
    return Console(highlight=False, soft_wrap=True)


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, then the end."""
    print("error: " + " ".join(one_line(message).split()), file=sys.stderr)
    sys.exit(code)


def note(topic: str, text: str) -> None:
    """A line on stderr that is no error; in brackets what it is about."""
    print(f"[{topic}] {text}", file=sys.stderr)  # not through rich, to which brackets mean colours


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`256` or `224,384` -> (H, W). Raises MisuseError."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) > 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise MisuseError(f"--imgsz {text!r}; wanted H or H,W in pixels, for instance 256 or 224,384")
    sizes = [int(part) for part in parts]
    return sizes[0], sizes[-1]


def parse_gib(value: float | None) -> int | None:
    """GiB -> bytes. Raises MisuseError for less than none."""
    if value is not None and not 0 <= value < float("inf"):
        raise MisuseError(f"--weight-budget is {value}; wanted GiB, 0 or more")
    return None if value is None else round(value * 2**30)


def parse_list(text: str, option: str, known: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """`cls,patch` -> ("cls", "patch"). Raises MisuseError for an empty, repeated or unknown name."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if not name or names.count(name) > 1 or (known is not None and name not in known):
            of = f" of {', '.join(known)}" if known else ""
            raise MisuseError(f"{option} {text!r}: {name!r} does not fit; wanted distinct names{of}")
    return names


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Say what is being done: a spinner on a terminal, plain lines elsewhere."""
    console = stderr()
    if not console.is_terminal:
        started = time.perf_counter()
        yield lambda text: print(f"[{time.perf_counter() - started:6.1f} s] {text}", file=sys.stderr)
        return
    with console.status("starting") as status:
        yield lambda text: status.update(text)


class Advance(Protocol):
    """Tell how many pictures are done and failed, and which stage is waited for, if that is known."""

    def __call__(self, done: int, failed: int, bottleneck: str = "") -> None: ...


@contextmanager
def picture_progress(total: int) -> Iterator[Advance]:
    """A bar with rate, remaining time, failures and what holds it up; lines where there is no terminal."""
    console = stderr()
    started = last = time.perf_counter()

    def describe(done: int, failed: int, bottleneck: str) -> str:
        rate = (done + failed) / max(time.perf_counter() - started, 1e-9)
        return f"{rate:.1f}/s, {failed} failed" + (f", waits for {bottleneck}" if bottleneck else "")

    if not console.is_terminal:

        def line(done: int, failed: int, bottleneck: str = "") -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last >= PLAIN_LINE_SECONDS:
                last = now
                seen = done + failed
                left = timedelta(seconds=round((total - seen) * (now - started) / max(seen, 1)))
                text = describe(done, failed, bottleneck)
                print(f"{seen}/{total} images, {text}, {left} left", file=sys.stderr)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("embedding", total=total)

        def bar(done: int, failed: int, bottleneck: str = "") -> None:
            text = f"embedding {describe(done, failed, bottleneck)}"
            progress.update(task, completed=done + failed, description=text)

        yield bar


@contextmanager
def build_progress() -> Iterator[tuple[Callable[[float, str], None], Callable[[str], None]]]:
    """Two functions: `report(fraction, phase)` for a bar, `say(text)` for what begins.

    Where there is no terminal: a line for what begins, and the fraction every few seconds.
    """
    console = stderr()
    started = last = time.perf_counter()
    if not console.is_terminal:

        def line(text: str) -> None:
            print(f"[{time.perf_counter() - started:6.1f} s] {text}", file=sys.stderr)

        def report(fraction: float, phase: str) -> None:
            nonlocal last
            if time.perf_counter() - last >= PLAIN_LINE_SECONDS:
                last = time.perf_counter()
                line(f"{fraction:.0%} {phase}")

        yield report, line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        yield (
            lambda fraction, phase: progress.update(task, completed=fraction, description=phase),
            lambda text: progress.update(task, description=text),
        )
