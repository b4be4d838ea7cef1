"""Build an engine of a bundle that an export has just made, where one was asked for or this machine can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from dinodeploy.bundle.bundle import Bundle
from dinodeploy.errors import ExportError, UnavailableError
from dinodeploy.pipeline.progress import build_progress
from exporters.tensorrt.add_engine import EngineRequest, add_engine, automatic_target

Log = Callable[[str], None]


def with_engine(
    bundle: Bundle, notes: Sequence[str], target: str | None, *, no_engine: bool, progress: bool
) -> Bundle:
    """A fresh bundle with its engine, the receipt of its export, and every note."""
    made, more = engine_after_export(bundle, target, no_engine=no_engine, progress=progress)
    return replace(made, receipt=bundle.receipt, notes=(*notes, *more))


def engine_after_export(
    bundle: Bundle, target: str | None, *, no_engine: bool, progress: bool = False
) -> tuple[Bundle, tuple[str, ...]]:
    """Build an engine of a fresh bundle if one was asked for or TensorRT and a GPU are here; and notes.

    If none was asked for, what this machine cannot do is a note. Otherwise raises as `exporters.tensorrt`,
    and says that the bundle itself is done.
    """
    chosen = None if no_engine else target or automatic_target()
    if chosen is None:
        return bundle, ()
    silent: tuple[Callable[[float, str], None], Log] = (lambda fraction, phase: None, _silent)
    try:
        with build_progress() if progress else nullcontext(silent) as (report, log):
            request = EngineRequest(chosen)
            built, notes = add_engine(bundle.root, request, report=report, log=log)
    except UnavailableError as error:
        if target is None:
            return bundle, (f"no engine was built: {error}",)
        raise UnavailableError(f"{error} (the bundle {bundle.root} itself is done)") from error
    except ExportError as error:
        raise ExportError(f"{error} (the bundle {bundle.root} itself is done)") from error
    return built.bundle, notes


def _silent(text: str) -> None: ...
