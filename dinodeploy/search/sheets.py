"""Contact sheets of search hits and near-duplicates: one HTML page (template `pages/sheet.html`).

Thumbnails are inside the page, so that it can be sent and opened anywhere. An image that is missing or cannot
be opened keeps its place with a note. Needs the extra `pages`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.files.paths import native_path
from dinodeploy.images.open import open_image
from dinodeploy.pages import check_pages, jpeg_uri, render_page
from dinodeploy.search.duplicates import Duplicates, Member
from dinodeploy.search.index import Hit

MOST = 600  # images on a page; a browser shows them all together, each about 20 kB
THUMBNAIL = 400  # pixels of the longer side: sharp at 200 on a dense screen
_QUALITY = 80
_FLATTEST, _TALLEST = 2.4, 0.6  # width over height that a row can hold: other images are cropped


@dataclass(frozen=True)
class Card:
    """One image: `score` and `word` above its name, `lines` below. kept: the one to keep."""

    id: str
    score: str
    word: str
    width: int
    height: int
    lines: tuple[str, ...] = ()
    kept: bool = False

    @property
    def name(self) -> str:
        return PurePosixPath(self.id).name or self.id

    @property
    def folder(self) -> str:
        parent = str(PurePosixPath(self.id).parent)
        return "" if parent == "." else f"{parent}/"


@dataclass(frozen=True)
class Strip:
    """Images that belong together. asked: the image that was searched for, if the query was one."""

    heading: str
    note: str
    cards: tuple[Card, ...]
    asked: str | None = None


@dataclass(frozen=True)
class Asked:
    """A query: what to call it, the image that it shows, and what was found."""

    query: str
    image: str | None
    hits: list[Hit]


@dataclass(frozen=True)
class Thumbnail:
    """`uri` of the JPEG, or None and `words` that stand in its place. shape: width over height."""

    uri: str | None
    words: str
    shape: float


def check_sheet(path: Path | None) -> None:
    """Check the page's path before any work is done. Raises MisuseError, UnavailableError without Jinja2."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise MisuseError(f"--html {path}: {what}; wanted a file in a folder that exists")
    check_pages()


def search_sheet(store: str, condition: str, asked: Sequence[Asked]) -> str:
    """A page of hits, one strip per query."""
    strips = [
        Strip(
            heading=one.query,
            note=f"{len(one.hits)} nearest images{condition}"
            if one.hits
            else f"nothing was found{condition}",
            cards=tuple(_hit(hit) for hit in one.hits[:MOST]),
            asked=one.image,
        )
        for one in asked
    ]
    return render_sheet(f"Search in {store}", "By cosine similarity, nearest first.", strips)


def duplicates_sheet(store: str, found: Duplicates) -> str:
    """A page of near-duplicates, one strip per group."""
    strips: list[Strip] = []
    shown = 0
    for number, group in enumerate(found.groups, 1):
        if shown and shown + len(group) > MOST:
            break
        shown += len(group[:MOST])
        more = f", the first {MOST} shown" if len(group) > MOST else ""
        cards = tuple(_member(member, is_kept=place == 0) for place, member in enumerate(group[:MOST]))
        strips.append(Strip(f"Group {number}", f"{len(group)} images{more}", cards))
    left = len(found.groups) - len(strips)
    lead = (
        f"{len(found.groups)} groups among {found.rows} images at a cosine of {found.threshold:g} or more; "
        f"{len(found.drop)} could be dropped."
        + (f" The first {len(strips)} groups are shown." if left else "")
    )
    return render_sheet(f"Near-duplicates in {store}", lead, strips)


def render_sheet(title: str, lead: str, strips: Sequence[Strip]) -> str:
    """One HTML document."""
    return render_page("sheet", title=title, lead=lead, strips=strips, thumbnail=_thumbnail)


def _hit(hit: Hit) -> Card:
    facts = tuple(f"{name}: {value}" for name, value in hit.metadata.items() if value is not None)
    return Card(hit.id, f"{hit.cosine:.4f}", f"#{hit.rank}", hit.width, hit.height, facts)


def _member(member: Member, *, is_kept: bool) -> Card:
    word = "keep" if is_kept else "exact copy" if member.copy else "drop"
    return Card(member.id, f"{member.cosine:.4f}", word, member.width, member.height, kept=is_kept)


def _thumbnail(id: str, width: int = 4, height: int = 3) -> Thumbnail:
    """Open and shrink an image; `width` and `height` give the shape where that is not possible."""
    try:
        image = open_image(native_path(id))
    except ImageError:
        words = "cannot be shown" if os.path.lexists(id) else "the original is not here"
        return Thumbnail(None, words, _shape(width, height))
    shape = _shape(*image.size)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Thumbnail(jpeg_uri(image, _QUALITY), "", shape)


def _shape(width: int, height: int) -> float:
    return min(_FLATTEST, max(_TALLEST, width / max(height, 1)))
