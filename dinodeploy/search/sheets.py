"""Hits and near-duplicates as contact sheets (`reports/contact_sheet.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.parity.reports.contact_sheet import Card, Strip, render_sheet
from dinodeploy.search.duplicates import Duplicates, Member
from dinodeploy.search.index import Hit

MOST = 600  # pictures on a page; a browser shows them at once, each some 20 kB


def check_sheet(path: Path | None) -> None:
    """Raise MisuseError for a page that cannot be written, before any work is done."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise MisuseError(f"--html {path}: {what}; wanted a file in a folder that is there")


def search_sheet(store: str, condition: str, asked: Sequence[tuple[str, bool, list[Hit]]]) -> str:
    """A page of hits: for each question what was asked, whether that is a picture, and what was found."""
    strips = [
        Strip(
            heading=question,
            note=f"{len(hits)} nearest pictures{condition}" if hits else f"nothing was found{condition}",
            cards=tuple(_hit(hit) for hit in hits[:MOST]),
            asked=question if is_picture else None,
        )
        for question, is_picture, hits in asked
    ]
    return render_sheet(f"Search in {store}", "By cosine similarity, nearest first.", strips)


def duplicates_sheet(store: str, found: Duplicates) -> str:
    """A page of near-duplicates, a strip a group."""
    strips: list[Strip] = []
    shown = 0
    for number, group in enumerate(found.groups, 1):
        if shown and shown + len(group) > MOST:
            break
        shown += len(group[:MOST])
        more = f", the first {MOST} shown" if len(group) > MOST else ""
        cards = tuple(_member(member, is_kept=place == 0) for place, member in enumerate(group[:MOST]))
        strips.append(Strip(f"Group {number}", f"{len(group)} pictures{more}", cards))
    left = len(found.groups) - len(strips)
    lead = (
        f"{len(found.groups)} groups among {found.rows} pictures at a cosine of {found.threshold:g} or more; "
        f"{len(found.drop)} could go." + (f" The first {len(strips)} groups are shown." if left else "")
    )
    return render_sheet(f"Near-duplicates in {store}", lead, strips)


def _hit(hit: Hit) -> Card:
    facts = tuple(f"{name}: {value}" for name, value in hit.metadata.items() if value is not None)
    return Card(hit.id, f"{hit.cosine:.4f}", f"#{hit.rank}", hit.width, hit.height, facts)


def _member(member: Member, *, is_kept: bool) -> Card:
    word = "keep" if is_kept else "exact copy" if member.copy else "drop"
    return Card(member.id, f"{member.cosine:.4f}", word, member.width, member.height, kept=is_kept)
