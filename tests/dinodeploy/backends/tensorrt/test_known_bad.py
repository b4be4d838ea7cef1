"""Versions of TensorRT that are known to be wrong, and what a report applies to."""

from __future__ import annotations

import pytest

from dinodeploy.backends.tensorrt.known_bad import KNOWN_BAD, has_free_sizes, refuse_known_bad, reports_on
from dinodeploy.backends.tensorrt.refuse import TARGETS
from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.errors import UnavailableError


@pytest.mark.parametrize(
    ("version", "recipe", "capability", "refit", "free_sizes", "link"),
    [
        ((10, 3), "fp16", "8.7", False, True, "issues/4419"),
        ((10, 3), "bf16", "8.7", False, True, "issues/4419"),
        ((10, 3), "fp16", "8.7", False, False, None),  # JetPack 6, one size
        ((10, 4), "fp32", "8.6", False, False, "issues/4742"),
        ((10, 7), "bf16", "12.0", False, True, None),
        ((10, 9), "fp16", "12.0", False, False, "issues/4837"),
        ((10, 16), "bf16", "12.0", False, True, "issues/4837"),
        ((10, 16), "int8", "12.0", False, True, "issues/4837"),
        ((10, 16), "fp32", "12.0", False, True, None),
        ((10, 16), "bf16", "8.9", False, True, None),
        ((11, 1), "fp32", "12.0", False, True, "issues/4813"),
        ((11, 1), "fp16", "12.0", False, True, None),
        ((11, 3), "fp16", "8.9", True, True, "refitting-engines"),
        ((11, 3), "fp16", "8.9", False, True, None),
        ((10, 5), "fp32", "8.6", True, True, None),
        ((11, 4), "fp16", None, True, True, None),
    ],
)
def test_known_bad_versions(
    version: tuple[int, int],
    recipe: str,
    capability: str | None,
    refit: bool,
    free_sizes: bool,
    link: str | None,
) -> None:
    asked = {"refit": refit, "free_sizes": free_sizes}
    if link is None:
        refuse_known_bad("tensorrt", version, recipe, capability, **asked)
        return
    with pytest.raises(UnavailableError) as caught:
        refuse_known_bad("tensorrt", version, recipe, capability, **asked)
    assert link in str(caught.value)
    assert "--allow-known-bad" in str(caught.value)
    refuse_known_bad("tensorrt_rtx", version, recipe, capability, **asked)


def test_free_sizes() -> None:
    one = ProfileFacts((1, 256, 256), (1, 256, 256), (1, 256, 256))
    assert not has_free_sizes((one, one))
    assert has_free_sizes((one, ProfileFacts((1, 256, 256), (1, 256, 256), (2, 256, 256))))


def test_every_report_has_a_link_and_a_module_that_we_build_with() -> None:
    for row in KNOWN_BAD:
        assert row.link.startswith("https://"), row
        assert row.module in TARGETS, row


def test_without_a_recipe_every_report_on_a_version_counts() -> None:
    every = {"refit": True, "free_sizes": True}
    links = [row.link[-4:] for row in reports_on("tensorrt", (10, 3, 0, 30), None, None, **every)]
    assert links == ["4419"]
    assert list(reports_on("tensorrt", (10, 16, 1), None, "8.9", **every)) == []
    assert len(list(reports_on("tensorrt", (10, 16, 1), None, "12.0", **every))) == 1
