"""JUnit XML against the rules of the schema that CI servers follow, and with what a schema cannot say."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from dinodeploy.parity.measurement import Measurement, Verdict
from dinodeploy.parity.reports import Report
from dinodeploy.parity.reports.junit import render

# JUnit.xsd (windyroad/JUnit-Schema): element -> (attributes it must have, children in their order)
SCHEMA: dict[str, tuple[set[str], str]] = {
    "testsuites": (set(), r"(testsuite )*"),
    "testsuite": (
        {"package", "id", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"},
        r"properties (testcase )*system-out system-err ",
    ),
    "properties": (set(), r"(property )*"),
    "property": ({"name", "value"}, ""),
    "testcase": ({"name", "classname", "time"}, r"((error|failure) )?"),
    "failure": ({"type"}, ""),
    "system-out": (set(), ""),
    "system-err": (set(), ""),
}
OPTIONAL = {"failure": {"message"}}


def assert_valid(element: ElementTree.Element) -> None:
    wanted, children = SCHEMA[element.tag]
    assert wanted <= set(element.attrib) <= wanted | OPTIONAL.get(element.tag, set()), element.tag
    assert re.fullmatch(children, "".join(f"{child.tag} " for child in element)), element.tag
    if element.tag == "testsuite":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", element.get("timestamp", ""))
        cases = element.findall("testcase")
        assert int(element.get("tests", -1)) == len(cases)
        assert int(element.get("failures", -1)) == len(element.findall("testcase/failure"))
        assert element.get("errors") == "0"
        assert float(element.get("time", "x")) >= 0
        names = [case.get("name") for case in cases]
        assert len(names) == len(set(names)), "a server tells cases apart by name"
        assert all(names)
    for child in element:
        assert_valid(child)


def parsed(report: Report) -> ElementTree.Element:
    root = ElementTree.fromstring(render(report))
    assert_valid(root)
    return root


def test_a_passing_report(passing: Report) -> None:
    root = parsed(passing)
    assert [suite.get("name") for suite in root] == ["parity", "bisect", "against"]
    assert root.findall(".//failure") == []
    names = {case.get("name") for case in root.findall("testsuite[@name='parity']/testcase")}
    assert {"wide/patch", "wide/pixels", "own_size/cls", "all/cls"} <= names
    assert root[0].find("properties/property[@name='recipe']").get("value") == "fp32"  # type: ignore[union-attr]


def test_a_failing_report_says_what_failed(failing: Report) -> None:
    root = parsed(failing)
    failure = root.find("testsuite[@name='parity']/testcase[@name='wide/cls']/failure")
    assert failure is not None
    assert re.fullmatch(r"relative_frobenius is 0\.\d+, limit 1e-05", failure.get("message", ""))
    assert len((failure.text or "").splitlines()) == 2, "every failed metric of the output"
    assert root.find("testsuite[@name='parity']/testcase[@name='wide/pixels']/failure") is None
    (departed,) = root.findall("testsuite[@name='bisect']/testcase/failure/..")
    assert departed.get("name") == "blocks.1"
    reindex = root.findall("testsuite[@name='against']/testcase/failure")
    assert "wanted at least" in reindex[0].get("message", "")


def test_only_what_was_asked_for(passing: Report) -> None:
    root = parsed(replace(passing, bisection=None, comparison=None))
    assert [suite.get("name") for suite in root] == ["parity"]


def test_embeddings_of_two_widths(passing: Report) -> None:
    assert passing.comparison is not None
    widths = replace(
        passing.comparison, findings=(), note="embeddings have 128 and 256 numbers", reindex=True
    )
    root = parsed(replace(passing, comparison=widths))
    (case,) = root.findall("testsuite[@name='against']/testcase")
    assert case.find("failure").get("message") == "embeddings have 128 and 256 numbers"  # type: ignore[union-attr]


@pytest.mark.parametrize("note", ['a < b & c > "d"', "bell \x07, null \x00, half a pair \ud800", "é ✓ 🦖"])
def test_any_note_makes_a_valid_document(note: str, passing: Report) -> None:
    bad = Measurement("wide", "cls", "shape", None, None, False, note)
    root = parsed(replace(passing, verdict=Verdict("fp32", (bad,))))
    message = root.find(".//failure").get("message")  # type: ignore[union-attr]
    assert message == "shape: " + re.sub("[\x00\x07\ud800]", "\ufffd", note)
