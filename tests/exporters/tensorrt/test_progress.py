"""Progress: nested phases become one growing number, and the builder can be stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exporters.tensorrt.progress import Progress, run_stoppable

ROOT = Path(__file__).parents[3]


def test_nested_phases_become_one_growing_number() -> None:
    """Two steps at the root, the first of them split into four; hand-computed fractions."""
    seen: list[float] = []
    progress = Progress(lambda fraction, phase: seen.append(fraction))
    progress.start("root", None, 2)
    progress.start("first", "root", 4)
    for step in range(4):
        assert progress.step("first", step)
    progress.finish("first")
    progress.step("root", 0)
    progress.start("second", "root", 1)
    progress.finish("second")
    progress.step("root", 1)
    progress.finish("root")
    assert seen[:6] == [0.0, 0.0, 0.125, 0.25, 0.375, 0.5]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_the_phase_is_named_and_strange_reports_do_no_harm() -> None:
    phases: list[str] = []
    progress = Progress(lambda fraction, phase: phases.append(phase))
    progress.start("timing", "nobody", 0)
    progress.step("never started", 3)
    progress.finish("never started")
    progress.finish("timing")
    progress.finish("timing")
    assert set(phases) == {"timing"}


def test_stop_reaches_the_builder_at_its_next_step() -> None:
    seen: list[float] = []
    progress = Progress(lambda fraction, phase: seen.append(fraction))
    progress.start("root", None, 2)
    assert progress.step("root", 0)
    progress.stop()
    assert not progress.step("root", 1)
    progress.finish("root")
    assert seen == [0.0, 0.5], "nothing is reported that was not done"


INTERRUPTED = """
import os, signal, threading, time
from exporters.tensorrt.progress import Progress, run_stoppable

progress = Progress(lambda fraction, phase: None)
progress.start("root", None, 1000)
ended = threading.Event()

def work():
    os.kill(os.getpid(), signal.SIGINT)
    for step in range(1000):
        if not progress.step("root", step):
            break
        time.sleep(0.005)
    ended.set()

handler = signal.getsignal(signal.SIGINT)
try:
    run_stoppable(work, progress)
except KeyboardInterrupt:
    assert ended.is_set() and progress.stopped
    assert signal.getsignal(signal.SIGINT) is handler
    print("interrupted")
"""


def test_ctrl_c_stops_the_work_and_waits_for_it() -> None:
    """The work runs elsewhere, like a builder that asks after each step; signals come to the main thread.

    In a process of its own: a stray signal would take everybody's tests along.
    """
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr


def test_results_and_errors_of_the_work_come_through() -> None:
    progress = Progress(lambda fraction, phase: None)
    assert run_stoppable(lambda: 7, progress) == 7
    with pytest.raises(ZeroDivisionError):
        run_stoppable(lambda: 1 // 0, progress)
