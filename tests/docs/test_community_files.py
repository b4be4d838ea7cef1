"""Changelog, citation, issue forms and CI: they parse, agree on the version, and name scripts that exist."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import dinodeploy

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
FORMS = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_every_file_parses(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_issue_forms_have_what_github_wants() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(form), path.name
            assert all("type" in field and "attributes" in field for field in form["body"]), path.name


def test_ci_runs_scripts_that_exist() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    scripts = set(re.findall(r"\.ci/\w+", workflow))
    assert {".ci/run", ".ci/lowest", ".ci/pythons"} <= scripts
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK), script


def test_the_changelog_has_unreleased_on_top_and_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert dinodeploy.__version__ in versions
    assert len(versions) == len(set(versions))
    for version in versions:
        assert f"\n[{version}]: https://" in CHANGELOG, version


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dinodeploy.__version__
    assert {"title", "message", "authors"} <= set(citation)
