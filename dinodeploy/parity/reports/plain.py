"""The report as JSON, the same as `check --json` prints."""

from __future__ import annotations

import json

from dinodeploy.parity.reports import Report


def render(report: Report) -> str:
    """JSON text, without NaN."""
    return json.dumps(report.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
