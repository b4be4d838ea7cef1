"""The contact sheet: complete in itself, safe with any name, and as a browser shows it."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.search.sheets import THUMBNAIL, Card, Strip, render_sheet
from tests.support.images.photographs import photograph

NASTY = '"><script>alert(1)</script>\n\x1b[31m\u202e&.jpg'


def card(id: str, **options: object) -> Card:
    return Card(id, "0.9876", "#1", 640, 427, **options)  # type: ignore[arg-type]


def sheet(*cards: Card, asked: str | None = None) -> str:
    return render_sheet("A & B", "lead", [Strip("heading", "note", cards, asked)])


def test_thumbnails_are_inside_and_small(tmp_path: Path) -> None:
    for name in ("china", "astronaut"):
        photograph(name).save(tmp_path / f"{name}.png")
    page = sheet(card(str(tmp_path / "china.png")), asked=str(tmp_path / "astronaut.png"))
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in found]
    assert sizes == [(THUMBNAIL, THUMBNAIL), (THUMBNAIL, round(THUMBNAIL * 427 / 640))]
    assert "--shape:1.499" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)


def test_no_name_breaks_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = sheet(card(NASTY, lines=(f"note: {NASTY}",)), asked=NASTY)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\n\\x1b[31m\\u202e&amp;.jpg" in page
    assert "A &amp; B" in page


@pytest.mark.parametrize("kind", ["missing", "broken", "fifo", "folder", "nul"])
def test_what_cannot_be_shown_keeps_its_place(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jpg"
    if kind == "broken":
        path.write_bytes(b"\xff\xd8\xff")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    page = sheet(card("a\0b.jpg" if kind == "nul" else str(path)))
    assert page.count('<div class="absent">') == 1
    assert ("the original is not here" in page) == (kind in ("missing", "nul"))
    assert "640 × 427" in page


def test_shapes_stay_within_what_a_row_can_take(tmp_path: Path) -> None:
    for name, size in (("flat", (900, 3)), ("tall", (3, 900))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    page = sheet(card(str(tmp_path / "flat.png")), card(str(tmp_path / "tall.png")))
    assert re.findall(r"--shape:([\d.]+)", page.partition("<main>")[2]) == ["2.400", "0.600"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_shows_it_without_scrolling_sideways(tmp_path: Path) -> None:
    """Drawn at two widths: the images are there, in colour, and nothing is wider than the page."""
    photograph("coffee").save(tmp_path / "a.jpg")
    long = str(tmp_path / ("long" * 40 + ".jpg"))
    (tmp_path / "s.html").write_text(sheet(*[card(str(tmp_path / "a.jpg"))] * 3, card(long)), "utf-8")
    for width in (1280, 420):
        picture = tmp_path / f"{width}.png"
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={width},900"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
        subprocess.run(
            [*command, (tmp_path / "s.html").as_uri()], check=True, capture_output=True, timeout=90
        )
        pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
        red = (pixels[..., 0] > 100) & (pixels[..., 1:].max(axis=2) < 60)
        assert red.mean() > 0.01, "the cup"
        assert len(np.unique(pixels[:, -6:].reshape(-1, 3), axis=0)) == 1, (
            "the page's ground reaches the edge"
        )
