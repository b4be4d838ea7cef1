"""Pictures on a page: what was found, or which are alike. One file, light and dark, without scripts.

Thumbnails are inside the page, so that it can be sent and opened anywhere. A picture that is not here, or
that cannot be opened, keeps its place and says so.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath

from PIL import Image

from dinodeploy import __version__
from dinodeploy.errors import ImageError, printable
from dinodeploy.images.open import open_image
from dinodeploy.parity.reports.style import CSS

THUMBNAIL = 400  # pixels of the longer side: sharp at 200 on a dense screen
_QUALITY = 80
_FLATTEST, _TALLEST = 2.4, 0.6  # shapes that a row can take: others are cut to them

SHEET_CSS = """
main { max-width: 1180px; }
.strip { display: flex; flex-wrap: wrap; gap: 14px; margin-top: 14px; }
.strip::after { content: ""; flex: 1000 1 0; }
figure { margin: 0; min-width: 0; flex: var(--shape) 1 calc(var(--shape) * 168px); }
.strip figure { max-width: calc(var(--shape) * 250px); }
figure img, .absent {
  display: block; width: 100%; aspect-ratio: var(--shape); object-fit: cover; border-radius: 7px;
  background: var(--grid);
}
.absent {
  display: grid; place-items: center; text-align: center; padding: 12px;
  color: var(--soft); font-size: 12.5px; border: 1px dashed var(--limit); background: none;
}
figure.kept img, figure.kept .absent { outline: 3px solid var(--pass); outline-offset: 2px; }
figcaption { margin-top: 7px; font-size: 12.5px; line-height: 1.4; color: var(--soft); }
figcaption > * { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
figcaption b { color: var(--ink); font-weight: 600; font-size: 13.5px; }
.score { display: flex; gap: 8px; align-items: center; font-variant-numeric: tabular-nums; }
.score i { font-style: normal; color: var(--ink); font-weight: 650; }
.score em { font-style: normal; margin-left: auto; }
.score em.keep { color: var(--pass); font-weight: 650; }
.asked { display: flex; gap: 20px; align-items: center; }
.asked figure { flex: none; width: calc(var(--shape) * 120px); }
.asked h2, .asked p { overflow-wrap: anywhere; }
.asked p { margin: 0; }
"""


@dataclass(frozen=True)
class Card:
    """One picture: `score` and `word` above its name, `lines` below. kept: the one to keep."""

    id: str
    score: str
    word: str
    width: int
    height: int
    lines: tuple[str, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Strip:
    """Pictures that belong together. asked: the picture that was searched for, if it was one."""

    heading: str
    note: str
    cards: tuple[Card, ...]
    asked: str | None = None


def render_sheet(title: str, lead: str, strips: Sequence[Strip]) -> str:
    """One HTML document."""
    body = "\n".join(_strip(strip) for strip in strips)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_shown(title)}</title>\n<style>{CSS}{SHEET_CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<h1>{_shown(title)}</h1>\n<p class="lead">{_shown(lead)}</p>\n</header>\n{body}\n'
        f"<footer>dinodeploy {__version__}</footer>\n</main>\n</body>\n</html>\n"
    )


def _strip(strip: Strip) -> str:
    head = f'<div><h2>{_shown(strip.heading)}</h2>\n<p class="note">{_shown(strip.note)}</p></div>'
    if strip.asked is not None:
        picture, shape = _picture(strip.asked, None)
        head = f'<div class="asked"><figure style="--shape:{shape:.3f}">{picture}</figure>{head}</div>'
    cards = "\n".join(_card(card) for card in strip.cards)
    return f'<section>\n{head}\n<div class="strip">\n{cards}\n</div>\n</section>'


def _card(card: Card) -> str:
    picture, shape = _picture(card.id, (card.width, card.height))
    path = PurePosixPath(card.id)
    folder = "" if str(path.parent) == "." else f"<span>{_shown(f'{path.parent}/')}</span>"
    word = f'<em class="{"keep" if card.kept else ""}">{_shown(card.word)}</em>'
    lines = "".join(f"<span>{_shown(line)}</span>" for line in card.lines)
    score = f'<span class="score"><i>{_shown(card.score)}</i>{word}</span>'
    return (
        f'<figure class="{"kept" if card.kept else ""}" style="--shape:{shape:.3f}" '
        f'title="{_shown(card.id)}">{picture}<figcaption>{score}'
        f"<b>{_shown(path.name or card.id)}</b>{folder}<span>{card.width} × {card.height}</span>{lines}"
        "</figcaption></figure>"
    )


def _picture(id: str, size: tuple[int, int] | None) -> tuple[str, float]:
    """The thumbnail, or words in its place; and its shape, width over height."""
    try:
        image = open_image(id)
    except ImageError:
        words = "cannot be shown" if os.path.lexists(id) else "the original is not here"
        return f'<div class="absent">{words}</div>', _shape(*(size or (4, 3)))
    shape = _shape(*image.size)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{_shown(id)}">', shape


def _shape(width: int, height: int) -> float:
    return min(_FLATTEST, max(_TALLEST, width / max(height, 1)))


def _shown(text: str) -> str:
    return escape(printable(text))
