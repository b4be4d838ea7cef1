"""Contact sheets of search hits and near-duplicates: one HTML page (template `pages/sheet.html`).

Thumbnails are inside the page, so that it can be sent and opened anywhere; the more there are, the smaller
they are. An image that is missing or cannot be opened keeps its place with a note. On the page of duplicates,
boxes choose what to keep, and a button saves the ids of the rest. Needs the extra `pages`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.files.paths import native_path
from dinodeploy.images.open import open_reduced
from dinodeploy.pages import check_pages, jpeg_uri, render_page, script_of
from dinodeploy.search.duplicates import Duplicates, Member
from dinodeploy.search.index import Hit

# (images on a page, pixels of the longer side of a thumbnail, JPEG quality): about 30, 12 and 6 kB an image
SIZES = ((600, 400, 80), (2_500, 240, 75), (10_000, 160, 70))
MOST = SIZES[-1][0]
_FLATTEST, _TALLEST = 2.4, 0.6  # width over height that a row can hold: other images are cropped


@dataclass(frozen=True)
class Card:
    """One image: `score` and `word` above its name, `lines` below. kept: keep it? None: not asked."""

    id: str
    score: str
    word: str
    width: int
    height: int
    lines: tuple[str, ...] = ()
    kept: bool | None = None

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
            cards=tuple(_hit(hit) for hit in one.hits),
            asked=one.image,
        )
        for one in asked
    ]
    return render_sheet(f"Search in {store}", "By cosine similarity, nearest first.", strips)


def duplicates_sheet(store: str, found: Duplicates) -> str:
    """A page of near-duplicates, one strip per group, with boxes to choose what to keep."""
    strips = [
        Strip(
            f"Group {number}",
            f"{len(group)} images",
            tuple(_member(member, is_kept=place == 0) for place, member in enumerate(group)),
        )
        for number, group in enumerate(found.groups, 1)
    ]
    lead = (
        f"{len(found.groups)} groups among {found.rows} images at a cosine of {found.threshold:g} or more. "
        "In each, the largest image is marked to keep; no file is deleted."
    )
    return render_sheet(f"Near-duplicates in {store}", lead, strips)


def render_sheet(title: str, lead: str, strips: Sequence[Strip]) -> str:
    """One HTML document with the first MOST images; of a group that is not shown whole, the page says so."""
    shown = _first(strips)
    count = sum(len(strip.cards) for strip in shown)
    asked = sum(len(strip.cards) for strip in strips)
    if count < asked:
        lead += f" The first {count:,} of {asked:,} images are shown."
    _, side, quality = next(size for size in SIZES if count <= size[0])
    choose = any(card.kept is not None for strip in shown for card in strip.cards)
    return render_page(
        "sheet",
        title=title,
        lead=lead,
        strips=shown,
        choose=choose,
        script=script_of("sheet") if choose else "",
        ids=[card.id for strip in shown for card in strip.cards],
        is_complete=count == asked,
        thumbnail=partial(_thumbnail, side=side, quality=quality),
    )


def _first(strips: Sequence[Strip]) -> list[Strip]:
    """The first MOST cards of all strips together, and every query without a hit."""
    shown: list[Strip] = []
    left = MOST
    for strip in strips:
        if left or not strip.cards:
            cards = strip.cards[:left]
            more = f", the first {len(cards)} shown" if len(cards) < len(strip.cards) else ""
            shown.append(replace(strip, cards=cards, note=strip.note + more))
            left -= len(cards)
    return shown


def _hit(hit: Hit) -> Card:
    facts = tuple(f"{name}: {value}" for name, value in hit.metadata.items() if value is not None)
    return Card(hit.id, f"{hit.cosine:.4f}", f"#{hit.rank}", hit.width, hit.height, facts)


def _member(member: Member, *, is_kept: bool) -> Card:
    word = "largest" if is_kept else "exact copy" if member.copy else ""
    return Card(member.id, f"{member.cosine:.4f}", word, member.width, member.height, kept=is_kept)


def _thumbnail(id: str, width: int = 4, height: int = 3, *, side: int, quality: int) -> Thumbnail:
    """Open and shrink an image; `width` and `height` give the shape where that is not possible."""
    try:
        image, _ = open_reduced(native_path(id), lambda w, h: max(1, max(w, h) // (2 * side)))
    except ImageError:
        words = "cannot be shown" if os.path.lexists(id) else "the original is not here"
        return Thumbnail(None, words, _shape(width, height))
    shape = _shape(*image.size)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Thumbnail(jpeg_uri(image, quality), "", shape)


def _shape(width: int, height: int) -> float:
    return min(_FLATTEST, max(_TALLEST, width / max(height, 1)))
