"""Pages of `search` and `dedupe` with many images: size, time to write, time to open and to use.

    .venv/bin/python benchmarks/sheets.py                       # 600, 2,500 and 10,000 images
    .venv/bin/python benchmarks/sheets.py --images 600

Photographs of scikit-image and scikit-learn, at most 900 pixels wide, each many times on a page. The page is
opened from a file in headless Chromium (Playwright) in a window of 1280x900; `scroll_s` is a jump to the
middle with two frames, `choose_s` a box that is ticked with two frames. Writes
benchmarks/ledger/sheets_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from shared import make_parser, new_record, save

from dinodeploy.search.duplicates import Duplicates, Member
from dinodeploy.search.index import Hit
from dinodeploy.search.sheets import Asked, duplicates_sheet, search_sheet
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.pages.browser import chromium

IMAGES = "600,2500,10000"
GROUP = 4  # images in a group of duplicates
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
SCROLL = f"scrollTo(0, document.documentElement.scrollHeight / 2); {FRAMES}"
CHOOSE = f"document.querySelectorAll('input')[{GROUP}].click(); {FRAMES}"


def write_photographs(folder: Path) -> list[str]:
    """JPEG files; returns their paths."""
    paths = []
    for name in PHOTOGRAPHS:
        image = photograph(name)
        image.thumbnail((900, 900))
        image.save(folder / f"{name}.jpg", quality=90)
        paths.append(str(folder / f"{name}.jpg"))
    return paths


def make(kind: str, count: int, paths: list[str]) -> str:
    """The page of `kind` with `count` images."""
    ids = [paths[at % len(paths)] for at in range(count)]
    if kind == "search":
        hits = [Hit(rank, id, 0.9, 640, 427) for rank, id in enumerate(ids, 1)]
        return search_sheet("store", "", [Asked("query", None, hits)])
    members = [Member(id, 640, 427, 0.99, False) for id in ids]
    groups = [members[at : at + GROUP] for at in range(0, count, GROUP)]
    return duplicates_sheet("store", Duplicates(count, 0.97, 0, groups))


def timed(page: Any, script: str) -> float:
    started = time.perf_counter()
    page.evaluate(script)
    return round(time.perf_counter() - started, 3)


def measure(kind: str, count: int, paths: list[str], folder: Path) -> dict[str, Any]:
    """One row of the record, from a browser of its own."""
    started = time.perf_counter()
    text = make(kind, count, paths)
    row: dict[str, Any] = {"page": kind, "images": count, "write_s": round(time.perf_counter() - started, 1)}
    file = folder / f"{kind}.html"
    file.write_text(text, "utf-8")
    row["MB"] = round(file.stat().st_size / 1e6, 1)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(file.as_uri(), wait_until="load", timeout=120_000)
        row["load_s"] = round(time.perf_counter() - started, 2)
        row["scroll_s"] = timed(page, SCROLL)
        if kind == "dedupe":
            row["choose_s"] = timed(page, CHOOSE)
        row["chromium"] = browser.version
    return row


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", default=IMAGES, help="images on a page (%(default)s)")
    options: argparse.Namespace = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        paths = write_photographs(folder)
        for count in map(int, options.images.split(",")):
            for kind in ("search", "dedupe"):
                rows.append(measure(kind, count, paths, folder))
                print(rows[-1], flush=True)
    print(save({**new_record("sheets", ("pillow", "playwright")), "rows": rows}, "sheets"))


if __name__ == "__main__":
    main()
