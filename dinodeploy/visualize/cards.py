"""Small dark cards drawn into an image: the colour scale of a map, and a legend of classes.

A card is in the lower left corner. It takes at most half of the width and 0.6 of the height; names are
shortened to fit, and what does not fit is counted. An image that is too small for text gets no card.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinodeploy.errors import printable
from dinodeploy.visualize.heat import heat

Colour = tuple[int, int, int]

CARD, INK = (18, 22, 28), (240, 243, 246)
WIDEST, HIGHEST = 0.5, 0.6  # shares of the image that a card may take
MOST_LINES = 12
LONGEST = 28  # characters of a name
_SMALLEST_FONT, _PIXELS_PER_FONT = 11, 45  # font size in pixels, and short sides of the image per font size
_CARD_OPACITY = 0.78
_BAR = 9  # font sizes that a colour bar is wide, at least
_SHORTEST = 3  # characters of a name that is shortened to fit, before its ellipsis


def add_scale(image: Image.Image, low: str, high: str, words: str = "") -> None:
    """Draw the colours of `heat` with the values at both ends, below `words` that say what they are."""
    font = font_for(image.size)
    size = size_of(font)
    pen = ImageDraw.Draw(image)
    ends = pen.textlength(low, font=font) + pen.textlength(high, font=font) + size
    wide = round(max(_BAR * size, ends, pen.textlength(words, font=font)))
    above = round(1.3 * size) if words else 0
    high_of_card = above + round(2.5 * size)
    if wide + size > WIDEST * image.width or high_of_card > HIGHEST * image.height:
        return
    left, top = size // 2, image.height - high_of_card - size // 2
    darken(image, (left, top, left + wide + size, top + high_of_card))
    pen = ImageDraw.Draw(image)
    start, bar = left + size // 2, top + above + size // 3
    pen.text((start, top + size // 4), words, fill=INK, font=font)
    ramp = heat(np.linspace(0, 1, wide)[None].repeat(max(1, size // 2), axis=0), 0, 1)
    image.paste(Image.fromarray(ramp), (start, bar))
    below = bar + round(0.65 * size)
    pen.text((start, below), low, fill=INK, font=font)
    pen.text((start + wide - pen.textlength(high, font=font), below), high, fill=INK, font=font)


def add_legend(image: Image.Image, lines: Sequence[tuple[str, str, Colour]]) -> None:
    """Draw (name, number beside it, colour) of each line; "and N more" stands for those without room."""
    font = font_for(image.size)
    size = size_of(font)
    step = round(1.45 * size)
    room = min(MOST_LINES, max(0, int((HIGHEST * image.height - size // 2) // step)))
    shown = list(lines[:room])
    if 1 < room < len(lines):
        shown = shown[:-1]
    pen = ImageDraw.Draw(image)
    widest = WIDEST * image.width - 2.6 * size
    texts = [_fit(name, number, widest, pen, font) for name, number, _ in shown]
    if not texts or None in texts:
        return
    if len(shown) < len(lines):
        texts.append(_fit("and", f"{len(lines) - len(shown)} more", widest, pen, font) or "…")
    wide = max(pen.textlength(text, font=font) for text in texts if text)
    height = step * len(texts) + size // 2
    left, top = size // 2, image.height - height - size // 2
    if top < 0:
        return
    darken(image, (left, top, left + round(wide + 2.6 * size), top + height))
    pen = ImageDraw.Draw(image)
    for row, text in enumerate(texts):
        y = top + size // 2 + row * step
        if row < len(shown):
            box = (left + size // 2, y, left + round(1.3 * size), y + round(0.8 * size))
            pen.rectangle(box, fill=shown[row][2])
        pen.text((left + 1.8 * size, y - size // 5), text or "", fill=INK, font=font)


def _fit(name: str, number: str, widest: float, pen: Any, font: Any) -> str | None:
    """The name, shortened until it and its number fit into `widest` pixels; None where too little is left."""
    name = short(name)
    for length in range(len(name), 0, -1):
        text = " ".join(filter(None, (name if length == len(name) else f"{name[:length]}…", number)))
        if pen.textlength(text, font=font) <= widest:
            return text if length >= min(len(name), _SHORTEST) else None
    return None


def darken(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """A dark, slightly transparent card."""
    part = image.crop(box)
    image.paste(Image.blend(part, Image.new("RGB", part.size, CARD), _CARD_OPACITY), box[:2])


def short(name: str) -> str:
    """A name for a label: control characters are visible, and it has at most LONGEST characters."""
    name = printable(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def font_for(size: tuple[int, int]) -> Any:
    """A font that suits an image of `size` (width, height)."""
    return _font(max(_SMALLEST_FONT, round(min(size) / _PIXELS_PER_FONT)))


@cache
def _font(size: int) -> Any:
    """Pillow's own font at `size` pixels; its small bitmap font where Pillow has no FreeType."""
    return ImageFont.load_default(size)


def size_of(font: Any) -> int:
    """Pixels."""
    return round(getattr(font, "size", _SMALLEST_FONT))
