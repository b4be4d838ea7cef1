"""Signals that stop a run: it saves a checkpoint first, on all ranks, within a deadline.

SIGINT (Ctrl-C), SIGTERM (torchelastic, Kubernetes, `scancel`) and SIGUSR1 (Slurm's `--signal=USR1@120`) let
the current iteration finish. One rank that got the signal is enough: the ranks agree after every iteration.
A second signal ends the process immediately, and so does the deadline.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import torch

from dinov3_ref.data.loaders import STOP_SIGNALS
from dinov3_ref.distributed import all_reduce_max

EXIT_CODE = 128  # plus the signal's number, as shells report it


class RunStopped(Exception):
    """A signal stopped the run after `iteration`, whose checkpoint is complete."""

    def __init__(self, number: int, iteration: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after iteration {iteration + 1}")
        self.exit_code = EXIT_CODE + number


class StopRequests:
    """Context manager: catches the signals while open. Outside the main thread it catches none.

    deadline: seconds from the signal until the process ends without a checkpoint.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.number = 0  # of the signal, 0 before one comes
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """Number of the signal that any rank got, 0 without one. A collective: every rank must call."""
        return int(all_reduce_max(torch.tensor(self.number)))

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.number:  # the second one
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.number = number
        self._timer = threading.Timer(self.deadline, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def _give_up(self) -> None:
        name = signal.Signals(self.number).name
        print(
            f"{name}: the iteration did not end within {self.deadline:g} s, so no checkpoint was written; "
            "train.stop_deadline sets the limit",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_CODE + self.number)
