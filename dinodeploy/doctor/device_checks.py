"""Which engine of a bundle each `--device` would run, or why none can run.

Each engine is opened once, as `embed` opens it, because only that shows whether it works. It is not run, and
no receipt is written. Every file is hashed before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinodeploy.backends.select import DEVICES, candidates, open_choice
from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.errors import BundleError, DinodeployError
from dinodeploy.parity.receipts import find_receipt


@dataclass(frozen=True)
class DeviceCheck:
    """The result for one `--device`."""

    device: str
    engine: str | None  # file name; None if no engine can run
    runtime: str | None
    runs_on: str | None  # as receipts name it
    judged: bool  # there is a passing receipt
    reasons: tuple[str, ...]  # why none can run, or why no better one can

    @property
    def runs(self) -> bool:
        return self.engine is not None


def check_devices(bundle: Bundle, file: str | None = None) -> tuple[DeviceCheck, ...]:
    """One result per device, in the order of DEVICES. file: the only engine file to consider."""
    tried: dict[tuple[str, str], _Tried] = {}
    return tuple(_check(bundle, file, device, tried) for device in DEVICES)


@dataclass(frozen=True)
class _Tried:
    """The result of opening one engine."""

    problem: str
    damaged: bool = False  # a file differs from the exported one; `embed` would stop, too
    runtime: str = ""
    device: str = ""
    judged: bool = False


def _check(
    bundle: Bundle, file: str | None, device: str, tried: dict[tuple[str, str], _Tried]
) -> DeviceCheck:
    reasons: list[str] = []
    try:
        allowed = candidates(bundle, device, file=file)
    except DinodeployError as error:
        return DeviceCheck(device, None, None, None, False, (str(error),))
    for candidate in allowed:
        key = (candidate.file, candidate.backend)
        if key not in tried:
            tried[key] = _try(candidate)
        found = tried[key]
        if not found.problem:
            why = tuple(dict.fromkeys(reasons))
            return DeviceCheck(device, candidate.file, found.runtime, found.device, found.judged, why)
        if found.damaged:
            return DeviceCheck(device, None, None, None, False, (found.problem,))
        reasons.append(found.problem)
    return DeviceCheck(device, None, None, None, False, tuple(dict.fromkeys(reasons)))


def _try(candidate: EngineChoice) -> _Tried:
    try:
        candidate.bundle.verify(candidate.needed_files)
        backend = open_choice(candidate)
    except DinodeployError as error:
        return _Tried(str(error), damaged=isinstance(error, BundleError))
    try:
        receipt = find_receipt(candidate, backend.runtime, backend.device)
        return _Tried("", False, backend.runtime, backend.device, receipt is not None)
    finally:
        backend.close()
