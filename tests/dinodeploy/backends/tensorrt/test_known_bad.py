"""Versions of TensorRT that are known to be wrong, and what a report applies to."""

from __future__ import annotations

import pytest

from dinodeploy.backends.tensorrt.known_bad import KNOWN_BAD, refuse_known_bad, reports_on
from dinodeploy.backends.tensorrt.refuse import TARGETS
from dinodeploy.errors import UnavailableError


@pytest.mark.parametrize(
    ("version", "recipe", "capability", "refit", "link"),
    [
        ((10, 3), "fp16", "8.7", False, "issues/4723"),
        ((10, 3), "bf16", "8.7", False, "issues/4419"),
        ((10, 4), "fp32", "8.6", False, "issues/4742"),
        ((10, 16), "bf16", "12.0", False, "issues/4837"),
        ((10, 16), "fp32", "12.0", False, None),
        ((10, 16), "bf16", "8.9", False, None),
        ((11, 3), "fp16", "8.9", True, "refitting-engines"),
        ((11, 3), "fp16", "8.9", False, None),
        ((10, 5), "fp32", "8.6", True, None),
        ((11, 4), "fp16", None, True, None),
    ],
)
def test_known_bad_versions(
    version: tuple[int, int], recipe: str, capability: str | None, refit: bool, link: str | None
) -> None:
    arguments = ("tensorrt", version, recipe, capability, refit)
    if link is None:
        refuse_known_bad(*arguments)
        return
    with pytest.raises(UnavailableError) as caught:
        refuse_known_bad(*arguments)
    assert link in str(caught.value)
    assert "--allow-known-bad" in str(caught.value)
    refuse_known_bad("tensorrt_rtx", *arguments[1:])


def test_every_report_has_a_link_and_a_module_that_we_build_with() -> None:
    for row in KNOWN_BAD:
        assert row.link.startswith("https://"), row
        assert row.module in TARGETS, row


def test_without_a_recipe_every_report_on_a_version_counts() -> None:
    links = [row.link[-4:] for row in reports_on("tensorrt", (10, 3, 0, 30), None, None, True)]
    assert links == ["4723", "4419"]
    assert list(reports_on("tensorrt", (10, 16, 1), None, "8.9", True)) == []
    assert len(list(reports_on("tensorrt", (10, 16, 1), None, "12.0", True))) == 1
