"""The contact sheet: complete in itself, safe with any name, and as a browser shows it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.search import sheets
from dinodeploy.search.duplicates import Duplicates, Member
from dinodeploy.search.sheets import SIZES, Asked, Card, Strip, duplicates_sheet, render_sheet, search_sheet
from tests.support.images.photographs import photograph

THUMBNAIL = SIZES[0][1]
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
    assert page.count('<span class="absent">') == 1
    assert ("the original is not here" in page) == (kind in ("missing", "nul"))
    assert "640 × 427" in page


def test_shapes_stay_within_what_a_row_can_take(tmp_path: Path) -> None:
    for name, size in (("flat", (900, 3)), ("tall", (3, 900))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    page = sheet(card(str(tmp_path / "flat.png")), card(str(tmp_path / "tall.png")))
    assert re.findall(r"--shape:([\d.]+)", page.partition("<main")[2]) == ["2.400", "0.600"]


def test_a_page_is_bounded_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one of all strips together; thumbnails become smaller before images are left out."""
    monkeypatch.setattr(sheets, "SIZES", ((2, 64, 80), (5, 32, 70)))
    monkeypatch.setattr(sheets, "MOST", 5)
    photograph("china").save(tmp_path / "a.png")
    found = str(tmp_path / "a.png")

    def strips(*counts: int) -> list[Strip]:
        return [Strip(f"{count} of them", "note", (card(found),) * count) for count in counts]

    def sides(page: str) -> list[int]:
        data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
        return [max(Image.open(io.BytesIO(base64.b64decode(each))).size) for each in data]

    assert sides(render_sheet("t", "lead", strips(1, 1))) == [64, 64]
    assert sides(render_sheet("t", "lead", strips(1, 2))) == [32] * 3
    page = render_sheet("t", "Lead.", strips(3, 0, 4, 2, 0))
    assert sides(page) == [32] * 5
    assert "Lead. The first 5 of 9 images are shown." in page
    assert "note, the first 2 shown" in page
    assert page.count("0 of them") == 2, "a query without hits is told"
    assert "2 of them" not in page


def test_what_was_asked_without_an_answer_is_told() -> None:
    assert "nothing was found, width &gt; 9" in search_sheet("store", ", width > 9", [Asked("a", None, [])])


def members(*ids: str) -> list[Member]:
    return [Member(id, 640, 427, 0.99, False) for id in ids]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_boxes_choose_what_to_keep(tmp_path: Path) -> None:
    """From a file: boxes, keyboard, two lists with ids as they are; a group that keeps nothing is named."""
    sync_api = pytest.importorskip("playwright.sync_api")
    odd = os.fsdecode(b"caf\xe9.png")
    groups = [members("a/1.jpg", "a/</script>2.jpg", "a/3.jpg"), members("b/1 \u202e.jpg", "b/2.jpg")]
    (tmp_path / "d.html").write_text(duplicates_sheet("s", Duplicates(9, 0.97, 0, groups)), "utf-8")
    (tmp_path / "odd.html").write_text(
        duplicates_sheet("s", Duplicates(9, 0.97, 0, [members("a", "b\nc", odd)])), "utf-8"
    )
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: problems.append(asked.url) if asked.url.startswith("http") else None)
        page.goto((tmp_path / "d.html").as_uri())

        def saved(button: str) -> str:
            with page.expect_download() as download:
                page.click(button)
            assert download.value.suggested_filename == f"drop.{button[1:].replace('text', 'txt')}"
            return Path(download.value.path()).read_text("utf-8")

        status = page.locator("#status")
        assert status.inner_text() == "3 of 5 images to drop"
        assert saved("#text") == "a/</script>2.jpg\na/3.jpg\nb/2.jpg\n"
        assert page.is_enabled("#text"), "a direction mark does not break a line"
        page.get_by_label("Keep a/</script>2.jpg").check()
        page.keyboard.press("ArrowDown")  # the first box of the next group
        page.keyboard.press("Space")
        assert status.inner_text() == "3 of 5 images to drop; 1 group keeps no image"
        assert page.locator(".none:visible").count() == 1
        assert json.loads(saved("#json")) == ["a/3.jpg", "b/1 \u202e.jpg", "b/2.jpg"]
        page.get_by_role("button", name="Keep all of Group 2").click()
        page.get_by_role("button", name="Keep all of Group 1").click()
        assert status.inner_text() == "0 of 5 images to drop"
        assert page.is_disabled("#text")
        assert page.is_disabled("#json")
        page.click("#reset")
        assert status.inner_text() == "3 of 5 images to drop"
        page.locator("label").nth(1).click()  # the image is part of the label
        assert status.inner_text() == "2 of 5 images to drop"

        page.goto((tmp_path / "odd.html").as_uri())
        assert page.is_disabled("#text"), "a list of lines cannot hold these"
        assert json.loads(saved("#json")) == ["b\nc", odd]
        assert problems == []
        browser.close()


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
