"""Two pages that are files of the repository: README.md, the home page, and examples/README.md.

Links are turned: into docs/ they become links inside the site, to anything else they lead to the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/dinodeploy/dinodeploy/blob/main/"
PAGES = {"README.md": "index.md", "examples/README.md": "examples.md"}
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs calls this before it reads pages."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=turned(text, posixpath.dirname(source))))
    return files


def turned(text: str, folder: str) -> str:
    """`text` of a file in `folder` of the repository, with its links as the site has them."""

    def turn(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path in PAGES:
            return f"]({PAGES[path]}"
        return "](" + (path.removeprefix("docs/") if path.startswith("docs/") else REPOSITORY + path)

    return _LINK.sub(turn, text)
