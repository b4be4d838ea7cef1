"""A bundle on each device: the engine that `embed --device` would run, opened as it opens it, or why none.

Nothing but opening an engine tells whether it opens, so that is done, once an engine; it is not run, and no
receipt is written. Every file is hashed before it is read, as always.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinodeploy.backends.select import DEVICES, candidates, open_choice
from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.errors import BundleError, DinodeployError
from dinodeploy.parity.receipts import find_receipt


@dataclass(frozen=True)
class Prospect:
    """What one `--device` comes to here."""

    device: str
    engine: str | None  # file name; None: it cannot run
    runtime: str | None
    runs_on: str | None  # as receipts name it
    judged: bool  # a passing receipt is there
    reasons: tuple[str, ...]  # why not, or why nothing better

    @property
    def runs(self) -> bool:
        return self.engine is not None


def find_prospects(bundle: Bundle, file: str | None = None) -> tuple[Prospect, ...]:
    """One per device, in the order of DEVICES; `file` is the one engine file to consider."""
    tried: dict[tuple[str, str], _Tried] = {}
    return tuple(_prospect(bundle, file, device, tried) for device in DEVICES)


@dataclass(frozen=True)
class _Tried:
    """How opening one engine went."""

    problem: str
    damaged: bool = False  # a file is not the exported one: `embed` stops there too
    runtime: str = ""
    device: str = ""
    judged: bool = False


def _prospect(
    bundle: Bundle, file: str | None, device: str, tried: dict[tuple[str, str], _Tried]
) -> Prospect:
    reasons: list[str] = []
    try:
        allowed = candidates(bundle, device, file=file)
    except DinodeployError as error:
        return Prospect(device, None, None, None, False, (str(error),))
    for candidate in allowed:
        key = (candidate.file, candidate.backend)
        if key not in tried:
            tried[key] = _try(candidate)
        found = tried[key]
        if not found.problem:
            why = tuple(dict.fromkeys(reasons))
            return Prospect(device, candidate.file, found.runtime, found.device, found.judged, why)
        if found.damaged:
            return Prospect(device, None, None, None, False, (found.problem,))
        reasons.append(found.problem)
    return Prospect(device, None, None, None, False, tuple(dict.fromkeys(reasons)))


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
