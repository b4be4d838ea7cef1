"""Whole models by where they come from: a factory of the user's, a module in memory, a file or folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dinodeploy.bundle.bundle import Bundle
from dinodeploy.errors import MisuseError
from dinov3_ref.tasks import load_task_model, recognise
from exporters.bundle.options import ExportOptions
from exporters.modules.export import export_task
from exporters.modules.export_module import export_module, module_from_factory
from exporters.modules.whole import Log

NO_FILE = ("hub", "random")


def export_whole(
    weights: str,
    out: Path | None,
    options: ExportOptions,
    *,
    module: str | nn.Module | None,
    outputs: Sequence[str],
    dynamic: Sequence[str] | None,
    task: str | None,
    dataset: str | None,
    others: dict[str, Any],
    log: Log,
) -> tuple[Bundle, tuple[str, ...]] | None:
    """Export `module`, or the whole model that `weights` holds; None where they hold a backbone.

    others: options of a backbone's export by name, to refuse those that a whole model has not. Raises
    MisuseError, and as `export_module` and `export_task`.
    """
    if module is None:
        _refuse({"outputs": outputs, "dynamic": dynamic, "task": task}, "is for a module; add --module")
        path = Path(weights)
        if weights in NO_FILE or not path.exists() or recognise(path) is None:
            _refuse(
                {"head_precision": options.head_precision != "fp32"},
                "is for whole models; this is a backbone",
            )
            return None
        _refuse(others, "does not fit a whole model; leave it out")
        log(f"loading {weights}")
        loaded = load_task_model(path)
        assert loaded is not None
        return export_task(loaded, out or Path(f"{loaded.kind}-{options.recipe}"), options, log=log)
    _refuse({**others, "weights": weights not in NO_FILE}, "does not fit a module; leave it out")
    log(f"making {module}" if isinstance(module, str) else "preparing the module")
    made = module_from_factory(module) if isinstance(module, str) else module
    return export_module(
        made,
        out or Path(f"{type(made).__name__.lower()}-{options.recipe}"),
        outputs=outputs,
        dynamic=dynamic,
        dataset=dataset,
        task=task or "custom",
        source=module if isinstance(module, str) else "",
        options=options,
        log=log,
    )


def _refuse(given: dict[str, Any], why: str) -> None:
    for name, value in given.items():
        if value:
            raise MisuseError(f"--{name.replace('_', '-')} {why}")
