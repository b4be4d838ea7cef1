"""The report as JUnit XML, for CI servers (Jenkins, GitLab, Azure, GitHub actions).

    testsuite `parity`   one testcase per case and output: wide/patch
    testsuite `bisect`   one testcase per place of the residual stream, with --bisect
    testsuite `against`  one testcase per criterion of the comparison, with --against

Elements and attributes follow the Apache Ant JUnit report schema, which all of these servers accept:
https://github.com/windyroad/JUnit-Schema/blob/master/JUnit.xsd
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from dinodeploy.parity.bisect import Bisection
from dinodeploy.parity.compare import Comparison
from dinodeploy.parity.judge import Measurement, Verdict
from dinodeploy.parity.reports import Report

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


@dataclass(frozen=True)
class _Case:
    name: str
    failures: tuple[str, ...]


def render(report: Report) -> str:
    """One XML document."""
    root = ElementTree.Element("testsuites")
    suites = {"parity": list(_parity(report.verdict))}
    if report.bisection is not None:
        suites["bisect"] = list(_bisect(report.bisection))
    if report.comparison is not None:
        suites["against"] = list(_against(report.comparison))
    for index, (name, cases) in enumerate(suites.items()):
        _add_suite(root, report, index, name, cases)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_suite(
    root: ElementTree.Element, report: Report, index: int, name: str, cases: Sequence[_Case]
) -> None:
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {
            "id": str(index),
            "package": "dinodeploy",
            "name": name,
            "timestamp": report.started.strftime("%Y-%m-%dT%H:%M:%S"),
            "hostname": _clean(platform.node() or "localhost"),
            "tests": str(len(cases)),
            "failures": str(sum(bool(case.failures) for case in cases)),
            "errors": "0",
            "time": f"{report.seconds if index == 0 else 0:.3f}",
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for key in ("engine", "engine_sha256", "golden_sha256", "runtime", "device", "recipe"):
        value = _clean(str(getattr(report.receipt, key)))
        ElementTree.SubElement(properties, "property", {"name": key, "value": value})
    classname = _clean(f"{report.bundle.root.resolve().name}.{name}")
    for case in cases:
        element = ElementTree.SubElement(
            suite, "testcase", {"name": _clean(case.name), "classname": classname, "time": "0.000"}
        )
        if case.failures:
            message = _clean(case.failures[0])
            failure = ElementTree.SubElement(element, "failure", {"message": message, "type": name})
            failure.text = _clean("\n".join(case.failures))
    ElementTree.SubElement(suite, "system-out")
    ElementTree.SubElement(suite, "system-err")


def _parity(verdict: Verdict) -> Iterator[_Case]:
    groups: dict[str, list[Measurement]] = {}
    for m in verdict.measurements:
        groups.setdefault(f"{m.case}/{m.output}", []).append(m)
    for name, group in groups.items():
        yield _Case(name, tuple(m.sentence for m in group if not m.passed))


def _bisect(bisection: Bisection) -> Iterator[_Case]:
    for place in bisection.places:
        yield _Case(place.name, (bisection.verdict,) if place.name == bisection.departs else ())


def _against(comparison: Comparison) -> Iterator[_Case]:
    if not comparison.findings:
        yield _Case("embed_dim", (comparison.note,))
    for finding in comparison.findings:
        value = "not finite" if finding.value is None else f"{finding.value:.6f}"
        words = f"{finding.metric} is {value}, wanted at least {finding.at_least:g}: {finding.reason}"
        yield _Case(finding.metric, () if finding.passed else (words,))


def _clean(text: str) -> str:
    """Replace the characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text)
