"""How far a build is, and how it is stopped.

The builder reports nested phases, each with a number of steps; their fractions are put together into one
number that only grows. It asks after each step whether to go on. The build runs on a thread of its own, so
that Ctrl-C reaches Python at once and not when the builder next happens to call.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from exporters.tensorrt.api import TensorRT

T = TypeVar("T")
Report = Callable[[float, str], None]  # fraction done, phase


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0
    children: dict[str, float] = field(default_factory=dict)  # running ones, by name


class Progress:
    """Phases put together; `stop` makes the builder end at its next step."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._reached = 0.0
        self._lock = threading.Lock()  # the builder may report from several threads
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = _Phase(name, parent, max(steps, 1))
            self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Step number `step`, from 0, of a phase is done. Returns whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self._tell(name)
        return not self.stopped

    def finish(self, name: str) -> None:
        with self._lock:
            if name in self._phases:
                self._phases[name].done = self._phases[name].steps
                self._tell(name)
                phase = self._phases.pop(name)
                if phase.parent in self._phases:
                    self._phases[phase.parent].children.pop(name, None)

    def _tell(self, name: str) -> None:
        """Carry a phase's fraction up to the root, where a running child counts as part of a step."""
        phase: _Phase | None = self._phases[name]
        fraction = 0.0
        while phase is not None:
            running = min(sum(phase.children.values()), 1.0)
            fraction = min((phase.done + running) / phase.steps, 1.0)
            parent = self._phases.get(phase.parent) if phase.parent is not None else None
            if parent is not None:
                parent.children[phase.name] = fraction
            phase = parent
        self._reached = max(self._reached, fraction)
        if not self.stopped:  # a builder that stops reports its phases finished
            self._report(self._reached, name)


def make_monitor(trt: TensorRT, progress: Progress) -> Any:
    """`progress` as the `IProgressMonitor` that a builder configuration takes."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return progress.step(name, step)

        def phase_finish(self, name: str) -> None:
            progress.finish(name)

    return Monitor()


def run_stoppable(work: Callable[[], T], progress: Progress) -> T:
    """Run `work` on a thread; the first Ctrl-C stops the builder and is raised when it has ended.

    A second Ctrl-C ends the process at once: nothing is on disk yet.
    """
    with _ctrl_c_stops(progress), ThreadPoolExecutor(1, "build") as pool:
        result = pool.submit(work).result()
    if progress.stopped:
        raise KeyboardInterrupt
    return result


@contextmanager
def _ctrl_c_stops(progress: Progress) -> Iterator[None]:
    """A handler, not an exception: that could strike anywhere, and a thread that nobody waits for is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        progress.stop()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
