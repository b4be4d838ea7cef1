"""A Diagnosis, and its text."""

from __future__ import annotations

from dataclasses import replace

from dinodeploy.doctor.examine import examine, report_lines
from dinodeploy.doctor.findings import Finding


def test_sections_and_findings() -> None:
    finding = Finding("warning", "the GPU is not used", "install a runtime", "https://example.org")
    lines = list(report_lines(replace(examine(), findings=(finding,))))
    assert (lines[0], "packages" in lines) == ("machine", True)
    assert lines[-3:] == [
        "findings",
        "  warning: the GPU is not used (https://example.org)",
        "    fix: install a runtime",
    ]
    assert list(report_lines(replace(examine(), findings=())))[-1] == "findings: none"
