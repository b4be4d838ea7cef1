"""Build the documentation site: `python docs/generate [OUT]`, by default into site/.

Copies docs/ to a temporary folder, adds the pages generated from the code, and runs Zensical there in
strict mode: a broken link or anchor fails the build.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import api_reference
import cli_reference
import precision_table

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/dinodeploy/dinodeploy/blob/main/"
PAGES = {  # files of the repository that are pages; README.md is the home page
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
}
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def write_pages(folder: Path) -> None:
    """All pages of the site, written and generated, as Markdown files below `folder`."""
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("generate"))
    generated = {
        "reference/cli.md": cli_reference.page(),
        "reference/api.md": api_reference.page(),
        "reference/precision.md": precision_table.page(),
        **repository_pages(),
    }
    for name, text in generated.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def repository_pages() -> dict[str, str]:
    """Page of the site -> its Markdown."""
    return {
        target: with_site_links((ROOT / source).read_text(encoding="utf-8"), posixpath.dirname(source))
        for source, target in PAGES.items()
    }


def with_site_links(text: str, folder: str) -> str:
    """`text` of a file in `folder`: links into docs/ stay inside the site, others lead to the repository."""

    def rewrite(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path in PAGES:
            return f"]({PAGES[path]}"
        return "](" + (path.removeprefix("docs/") if path.startswith("docs/") else REPOSITORY + path)

    return _LINK.sub(rewrite, text)


def build(out: Path) -> int:
    """Write the site to `out` and return Zensical's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        write_pages(stage / "docs")
        shutil.copy(ROOT / "zensical.toml", stage)
        command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
        # mkdocstrings looks for the sources, and for its extension docstrings.py, on the path
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
        status = subprocess.run(command, cwd=stage, env=environment, check=False).returncode
        if status == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(stage / "site", out)
    return status


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site")))
