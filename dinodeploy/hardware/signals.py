"""Ctrl-C, SIGTERM and SIGHUP end a command, whatever runs when they come.

A signal raises `Interrupted` in the main thread, so that every `with` and `finally` cleans up. Other packages
lose such an exception: native code and callbacks of weak references drop it, an import that it stops becomes
an ImportError. An `Interrupted` that disappears before the command has ended is therefore raised again.

    run_program(main)   all of a console script, which imports what is large only in `main`
    report()            the error line and the exit code, 128 + the number of the signal

At its end a program exits without taking its modules apart, once everything registered with `atexit` has run:
that takes a quarter of a second with a runtime loaded, and Python no longer handles signals in it.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # as far as the system has them
MESSAGE = "error: interrupted; nothing half-written was left"
_DUPLICATE = 0.5  # seconds: shells and process managers send a signal to a group and again to its members
_CANNOT_FLUSH = 120  # what Python exits with
_AGAIN = 0.05  # seconds after which a lost exception is raised again


class _State:
    """What this process has received. No dataclass: this module is imported before anything else."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0: none
        self.seconds = 0.0  # when
        self.thread = _thread.get_ident()
        self.lost = False  # the exception disappeared, so the next one is no duplicate
        self.reported = False
        self.code: int | None = None  # of the ended command


_state = _State()


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command."""

    def __del__(self) -> None:
        if not _state.reported and _state.code is None:
            _thread.start_new_thread(_raise_again, ())


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run `main` and exit with its code, whatever signals come."""
    try:
        _install()
        if _is_program(sys._getframe(1)) and getattr(atexit, "_ncallbacks", lambda: 1)() == 0:
            atexit.register(_leave)  # first registered, last to run
        code = main()
        if received():
            code = report()
    except BaseException:
        if not received():
            raise
        code = report()
    _state.code = code  # from here on a signal ends the process at once: all is written and closed
    sys.exit(code)


def received() -> bool:
    """Whether a signal has come since `install`, even if the exception was lost."""
    return _state.number != 0


def report() -> int:
    """Print the error line once; the exit code."""
    code = 128 + (_state.number or signal.SIGINT)
    if not _state.reported:
        _state.reported = True
        try:
            for stream, text in ((sys.stderr, f"{MESSAGE}\n"), (sys.stdout, "")):
                if stream is not None:
                    stream.write(text)
                    stream.flush()
        except (OSError, ValueError):  # the terminal is gone
            os._exit(code)
    return code


def _install() -> None:
    """Handle the signals that are not ignored, as `nohup` and a shell's background ignore them."""
    global _state
    _state = _State()
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            try:
                signal.signal(number, _handle)
            except ValueError:  # not the main thread of a program that calls `main`
                return
    sys.unraisablehook = _hide_interrupted


def _is_program(frame: FrameType | None) -> bool:
    """Whether the process is a console script or `python -m`, and not a program that calls `main`."""
    while (frame := frame.f_back if frame else None) is not None:
        if frame.f_code.co_name != "<module>" and frame.f_globals.get("__name__") != "runpy":
            return False
    return True


def _leave() -> None:
    if _state.code is None:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # Python's sign that the descriptor was closed from the start
                stream.flush()
        except (OSError, ValueError, AttributeError):  # closed later, or not a file
            _state.code = _state.code or _CANNOT_FLUSH
    os._exit(_state.code)


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.code is not None:
        if not _state.reported:
            os.write(2, f"{MESSAGE}\n".encode())
        os._exit(128 + (_state.number or number))
    if _state.number and now - _state.seconds < _DUPLICATE and not _state.lost:
        return
    _state.number = _state.number or number
    _state.seconds, _state.lost = now, False
    raise Interrupted


def _raise_again() -> None:
    time.sleep(_AGAIN)
    if not _state.reported and _state.code is None:
        _state.lost = True
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(_state.thread, _state.number)  # also ends a system call that waits
        else:
            _thread.interrupt_main(signal.Signals(_state.number))


def _hide_interrupted(unraisable: Any) -> None:
    """What Python prints about an exception that it cannot raise, but for ours, which comes again."""
    if not isinstance(unraisable.exc_value, Interrupted):
        sys.__unraisablehook__(unraisable)
