"""`hf://org/name[/folder][@revision]`: where a bundle is on the Hugging Face hub.

The form of huggingface_hub, `hf://[models/]org/name[@revision][/folder]`, means the same. A revision is a
branch, a tag or a commit; one with a slash comes last, or is written with %2F. Source:
https://huggingface.co/docs/huggingface_hub/package_reference/hf_uris
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from dinodeploy.errors import MisuseError

SCHEME = "hf:"
DEFAULT_REVISION = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
FORM = "hf://ORG/NAME[/FOLDER][@REVISION]"
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")  # org or model
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
_OTHERS = ("datasets", "spaces", "kernels", "buckets")  # what else hf:// may name
_SPECIAL = re.compile(r"(refs/(?:pr/\d+|convert/[\w.-]+))(?:/(.*))?")  # revisions with slashes


@dataclass(frozen=True)
class HubReference:
    """A place in a model repository at a revision."""

    repo: str  # org/name
    folder: str = ""  # inside the repository; "" is its root
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        """The reference as `parse` reads it."""
        place = f"{self.repo}/{self.folder}" if self.folder else self.repo
        plain = "/" if self.folder or _SPECIAL.fullmatch(self.revision) else ""
        at = "" if self.revision == DEFAULT_REVISION else f"@{quote(self.revision, safe=plain)}"
        return f"hf://{place}{at}"

    @property
    def is_commit(self) -> bool:
        """Whether the revision can never mean anything else."""
        return COMMIT.fullmatch(self.revision) is not None

    def path_of(self, name: str) -> str:
        """The path of a file of this place inside the repository."""
        return f"{self.folder}/{name}" if self.folder else name

    def inside(self, name: str) -> HubReference:
        """The place or file `name` inside this place."""
        return replace(self, folder=self.path_of(name))

    def split_file(self) -> tuple[HubReference, str] | None:
        """The folder above and the last name, for a reference to a file; None at the root."""
        above, _, name = self.folder.rpartition("/")
        return (replace(self, folder=above), name) if name else None


def parse(text: str | os.PathLike[str], revision: str | None = None) -> HubReference:
    """`hf://org/name/folder@revision`, or the same without hf://. Raises MisuseError.

    revision: as an option of its own, in place of the one after @.
    """
    given = os.fspath(text)
    place = given.replace("\\", "/")
    if place.startswith(SCHEME):
        place = place.removeprefix(SCHEME).lstrip("/")
    place, at, after = place.partition("@")
    parts = place.rstrip("/").split("/")
    if parts[0] in _OTHERS:
        raise MisuseError(f"{_shown(given)} is in {parts[0]}; bundles are in model repositories: {FORM}")
    parts = parts[1:] if parts[0] == "models" else parts
    repo, folder = "/".join(parts[:2]), "/".join(parts[2:])
    if at and not folder:  # huggingface_hub's order: the folder comes after the revision
        after, folder = _split_revision(after)
    if at and revision is not None:
        raise MisuseError(f"{_shown(given)} has a revision, and --revision {revision} is another; give one")
    found = HubReference(repo, folder.rstrip("/"), unquote(after) if at else revision or DEFAULT_REVISION)
    if problem := _problem(found):
        raise MisuseError(f"{_shown(given)}: {problem}; wanted {FORM}")
    return found


def _split_revision(after: str) -> tuple[str, str]:
    """`revision/folder` behind an @. A slash is the end of a revision, but for refs/pr/1."""
    if special := _SPECIAL.fullmatch(after):
        return special[1], special[2] or ""
    revision, _, folder = after.partition("/")
    return revision, folder


def _problem(reference: HubReference) -> str:
    names = reference.repo.split("/")
    if len(names) != 2:
        return f"{reference.repo!r} is not an organisation or user and a name"
    for name in names:
        if not _NAME.fullmatch(name) or "--" in name or ".." in name:
            return f"{name!r} is no name on the hub"
    for name in reference.folder.split("/") if reference.folder else ():
        if not _FOLDER.fullmatch(name):
            return f"{name!r} is no folder in a repository"
    if not _REVISION.fullmatch(reference.revision) or ".." in reference.revision:
        return f"{reference.revision!r} is no branch, tag or commit"
    return ""


def _shown(given: str) -> str:
    """What the user wrote, before `pathlib` took one of the slashes."""
    return re.sub(r"^hf:[/\\]+", "hf://", given)
