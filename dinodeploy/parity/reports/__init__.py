"""The report of `dinodeploy check` as a file: .json for programs, .xml for CI servers, .html for people.

One writer per suffix, in one literal table. Files are written atomically.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.errors import MisuseError
from dinodeploy.files import schema
from dinodeploy.files.atomic import atomic_file
from dinodeploy.pages import check_pages
from dinodeploy.parity.bisect import Bisection
from dinodeploy.parity.compare import Comparison
from dinodeploy.parity.measurement import Verdict
from dinodeploy.parity.receipts import Receipt
from dinodeploy.plots.canvas import check_plots

WRITERS: dict[str, str] = {
    ".json": "dinodeploy.parity.reports:render_json",
    ".xml": "dinodeploy.parity.reports.junit:render",
    ".html": "dinodeploy.parity.reports.html:render",
}


@dataclass(frozen=True)
class Report:
    """All results of one `check`."""

    engine: EngineChoice
    receipt: Receipt
    verdict: Verdict
    bisection: Bisection | None  # None: not asked for
    comparison: Comparison | None
    started: datetime  # UTC
    seconds: float

    @property
    def bundle(self) -> Bundle:
        return self.engine.bundle

    @property
    def passed(self) -> bool:
        """Whether the exit code is 0: the engine agrees with the reference, and the index can stay."""
        return self.verdict.passed and not (self.comparison and self.comparison.reindex)

    @property
    def bisect_words(self) -> str:
        """The bisection's verdict, with advice where the check failed but no place departs."""
        if self.bisection is None:
            return ""
        if self.verdict.passed or self.bisection.departs is not None:
            return self.bisection.verdict
        return (
            f"{self.bisection.verdict}; the failure does not show in the residual stream of this image: "
            "look at preprocessing, at other input sizes, and at the optimisations of the runtime"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values: the receipt, bisection and comparison. `passed` is the parity verdict alone."""
        data: dict[str, Any] = {"bundle": self.bundle.named, **schema.dump(self.receipt)}
        if self.bisection is not None:
            data["bisect"] = schema.dump(self.bisection)
        if self.comparison is not None:
            data["against"] = {**schema.dump(self.comparison), "verdict": self.comparison.verdict}
        return data


def render_json(report: Report) -> str:
    """What `check --json` prints, without NaN."""
    return json.dumps(report.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_targets(paths: Sequence[Path]) -> None:
    """Check report paths before any work is done.

    Raises MisuseError for a path that cannot be written, UnavailableError for a page without its packages.
    """
    for path in paths:
        if path.suffix.lower() not in WRITERS:
            raise MisuseError(f"--report {path}: wanted a file that ends in {', '.join(WRITERS)}")
        if path.is_dir() or not path.parent.is_dir():
            what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise MisuseError(f"--report {path}: {what}; wanted a file in a folder that exists")
        if path.suffix.lower() == ".html":
            check_plots()
            check_pages()


def write_report(report: Report, path: Path) -> None:
    """Write `path` in the format of its suffix."""
    module, _, function = WRITERS[path.suffix.lower()].partition(":")
    render: Callable[[Report], str] = getattr(importlib.import_module(module), function)
    with atomic_file(path) as file:
        file.write(render(report).encode())
