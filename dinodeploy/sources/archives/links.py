"""Links inside archives: which member a link leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MOST_STEPS = 40  # as Linux follows: path_resolution(7)


@dataclass(frozen=True)
class Link:
    """A member that stands for another. target: of a hard link a member's name, else beside the link."""

    target: str
    is_hard: bool = False


class LinkError(ValueError):
    """A link that leads to no member. The message says why."""


def plain_name(name: str) -> str:
    """A member's name without `.`, `..` and repeated slashes; `..` stays at the start: ../x.jpg is a name."""
    parts: list[str] = [""] if name.startswith("/") else []
    for part in name.split("/"):
        if part == "..":
            if not parts or parts[-1] == "..":
                parts.append(part)
            elif parts != [""]:  # the parent of / is /
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def absent(name: str) -> str:
    """What a link does that leads to the plain name `name`, which no member has."""
    outside = name.startswith("/") or name.split("/")[0] == ".."
    return "leads out of the archive" if outside else "is not in the archive"


def follow(name: str, links: Mapping[str, Link]) -> str:
    """The plain name of the member that `name` leads to, over any number of links to files and folders.

    links: of the archive, by plain name. Raises LinkError for a loop. A way out of the archive
    gives a name that no member has, as far as names tell (`absent` says so).
    """
    now = plain_name(name)
    for _ in range(_MOST_STEPS):
        parts = now.split("/")
        for end in range(1, len(parts) + 1):
            link = links.get("/".join(parts[:end]))
            if link is not None:
                break
        else:
            return now
        absolute = link.is_hard or link.target.startswith("/")
        folder = [] if absolute else parts[: end - 1]
        now = plain_name("/".join([*folder, link.target, *parts[end:]]))
    raise LinkError("leads back to itself")
