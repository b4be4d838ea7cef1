"""Which engine of a bundle each `--device` would run, or why none can run.

Each engine is opened once, as `embed` opens it, because only that shows whether it works. It is not run, and
no receipt is written. Every file is hashed before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dinodeploy.backends.select import DEVICES, candidates, open_choice
from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.errors import BundleError, DinodeployError
from dinodeploy.parity.receipts import find_receipt


@dataclass(frozen=True)
class DeviceCheck:
    """The result for one `--device`."""

    device: str
    engine: str | None = None  # file name; None if no engine can run
    runtime: str | None = None
    runs_on: str | None = None  # as receipts name it
    judged: bool = False  # there is a passing receipt
    reasons: tuple[str, ...] = ()  # why none can run, or why no better one can

    @property
    def runs(self) -> bool:
        return self.engine is not None


Tried = dict[tuple[str, str], DeviceCheck | DinodeployError]  # (file, backend) -> result


def check_devices(bundle: Bundle, file: str | None = None) -> tuple[DeviceCheck, ...]:
    """One result per device, in the order of DEVICES. file: the only engine file to consider."""
    tried: Tried = {}
    return tuple(_check(bundle, file, device, tried) for device in DEVICES)


def _check(bundle: Bundle, file: str | None, device: str, tried: Tried) -> DeviceCheck:
    reasons: list[str] = []
    try:
        allowed = candidates(bundle, device, file=file)
    except DinodeployError as error:
        return DeviceCheck(device, reasons=(str(error),))
    for candidate in allowed:
        key = (candidate.file, candidate.backend)
        if key not in tried:
            tried[key] = _try(candidate)
        found = tried[key]
        if isinstance(found, DeviceCheck):
            return replace(found, device=device, reasons=tuple(dict.fromkeys(reasons)))
        if isinstance(found, BundleError):  # a file differs from the exported one; `embed` would stop, too
            return DeviceCheck(device, reasons=(str(found),))
        reasons.append(str(found))
    return DeviceCheck(device, reasons=tuple(dict.fromkeys(reasons)))


def _try(candidate: EngineChoice) -> DeviceCheck | DinodeployError:
    """The result of opening one engine, for any device."""
    try:
        candidate.bundle.verify(candidate.needed_files)
        backend = open_choice(candidate)
    except DinodeployError as error:
        return error
    try:
        receipt = find_receipt(candidate, backend.runtime, backend.device)
        return DeviceCheck("", candidate.file, backend.runtime, backend.device, receipt is not None)
    finally:
        backend.close()
