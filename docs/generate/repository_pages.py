"""Pages that are files of the repository: README.md is the home page.

Links into docs/ become links inside the site. All other links lead to the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/dinodeploy/dinodeploy/blob/main/"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def pages() -> dict[str, str]:
    """Page of the site -> its Markdown."""
    return {
        target: with_site_links((ROOT / source).read_text(encoding="utf-8"), posixpath.dirname(source))
        for source, target in PAGES.items()
    }


def with_site_links(text: str, folder: str) -> str:
    """`text` of a file in `folder` of the repository, with links as the site needs them."""

    def rewrite(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path in PAGES:
            return f"]({PAGES[path]}"
        return "](" + (path.removeprefix("docs/") if path.startswith("docs/") else REPOSITORY + path)

    return _LINK.sub(rewrite, text)
