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
from collections.abc import Iterator
from xml.etree import ElementTree

from dinodeploy.parity.bisect import Bisection
from dinodeploy.parity.compare import Comparison
from dinodeploy.parity.measurement import Measurement, Verdict
from dinodeploy.parity.reports import Report

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


_Case = tuple[str, list[str]]  # name, failures


def render(report: Report) -> str:
    """One XML document."""
    root = ElementTree.Element("testsuites")
    suites = {"parity": list(_parity(report.verdict))}
    if report.bisection is not None:
        suites["bisect"] = list(_bisect(report.bisection))
    if report.comparison is not None:
        suites["against"] = list(_against(report.comparison))
    for index, (name, cases) in enumerate(suites.items()):
        suite = _add(
            root, "testsuite", id=str(index), package="dinodeploy", name=name,
            timestamp=report.started.strftime("%Y-%m-%dT%H:%M:%S"), hostname=platform.node() or "localhost",
            tests=str(len(cases)), failures=str(sum(bool(failures) for _, failures in cases)), errors="0",
            time=f"{report.seconds if index == 0 else 0:.3f}",
        )  # fmt: skip
        properties = _add(suite, "properties")
        for key in ("engine", "engine_sha256", "golden_sha256", "runtime", "device", "recipe"):
            _add(properties, "property", name=key, value=str(getattr(report.receipt, key)))
        classname = f"{report.bundle.name}.{name}"
        for case, failures in cases:
            element = _add(suite, "testcase", name=case, classname=classname, time="0.000")
            if failures:
                failure = _add(element, "failure", message=failures[0], type=name)
                failure.text = _clean("\n".join(failures))
        _add(suite, "system-out")
        _add(suite, "system-err")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add(parent: ElementTree.Element, tag: str, /, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {key: _clean(value) for key, value in attributes.items()})


def _parity(verdict: Verdict) -> Iterator[_Case]:
    groups: dict[str, list[Measurement]] = {}
    for m in verdict.measurements:
        groups.setdefault(f"{m.case}/{m.output}", []).append(m)
    for name, group in groups.items():
        yield name, [m.sentence for m in group if not m.passed]


def _bisect(bisection: Bisection) -> Iterator[_Case]:
    for place in bisection.places:
        yield place.name, [bisection.verdict] if place.name == bisection.departs else []


def _against(comparison: Comparison) -> Iterator[_Case]:
    if not comparison.findings:
        yield "embed_dim", [comparison.note]
    for finding in comparison.findings:
        value = "not finite" if finding.value is None else f"{finding.value:.6f}"
        words = f"{finding.metric} is {value}, wanted at least {finding.at_least:g}: {finding.reason}"
        yield finding.metric, [] if finding.passed else [words]


def _clean(text: str) -> str:
    """Replace the characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text)
