"""Report the progress of a build, and stop it on Ctrl-C.

The builder reports nested phases, each with a number of steps; they are combined into one fraction that only
grows. After each step it asks whether to continue. The build runs on its own thread, so that Python handles
Ctrl-C immediately.
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
    """Combines the phases into one fraction; `stop` ends the build at its next step."""

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
            self._update(name)

    def step(self, name: str, step: int) -> bool:
        """Step number `step` (from 0) of a phase is done. Returns whether to continue."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self._update(name)
        return not self.stopped

    def finish(self, name: str) -> None:
        with self._lock:
            if name in self._phases:
                self._phases[name].done = self._phases[name].steps
                self._update(name)
                phase = self._phases.pop(name)
                if phase.parent in self._phases:
                    self._phases[phase.parent].children.pop(name, None)

    def _update(self, name: str) -> None:
        """Update the fraction of a phase and its parents; a running child counts as part of a step."""
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
        if not self.stopped:  # a stopped builder reports its phases as finished
            self._report(self._reached, name)


def make_monitor(trt: TensorRT, progress: Progress) -> Any:
    """`progress` as an `IProgressMonitor` for the builder configuration."""

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
    """Run `work` on a thread; the first Ctrl-C stops the builder, then raises KeyboardInterrupt.

    A second Ctrl-C ends the process immediately, which is safe: nothing is on disk yet.
    """
    with _ctrl_c_stops(progress), ThreadPoolExecutor(1, "build") as pool:
        result = pool.submit(work).result()
    if progress.stopped:
        raise KeyboardInterrupt
    return result


@contextmanager
def _ctrl_c_stops(progress: Progress) -> Iterator[None]:
    """Handle SIGINT instead of letting it raise: an exception could leave the build thread running."""
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
