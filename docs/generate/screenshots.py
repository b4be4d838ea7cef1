"""Take the screenshots of the guides: `python docs/generate/screenshots.py [NAME...]`, by default all.

Makes the pages with the demo's photographs and the toy models of examples/, and opens them in Chromium
(Playwright, and `chromium` on the path). Predictions are drawn by hand: no toy model segments photographs.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
RUNNING = ExitStack()  # services, until the last screenshot
WIDTH, SHOWN = 1280, 960  # pixels of the window, and of the image in a guide
QUALITY = 84


@dataclass(frozen=True)
class Shot:
    """A page and what is done on it before the screenshot. make: its file, or its address."""

    make: Callable[[], Path | str]
    height: int = 900  # pixels of the window
    scheme: str = "light"
    act: Callable[[Any], None] = lambda page: None


def run(*arguments: object) -> None:
    """The command line, in this process."""
    from dinodeploy.cli.app import make_app

    print("$ dinodeploy", *arguments, flush=True)
    make_app()([str(one) for one in arguments], standalone_mode=False)


def bundle() -> Path:
    """The toy model as a bundle with attention, and the photographs beside it."""
    from tests.support.images.photographs import PHOTOGRAPHS, photograph

    if not Path("bundle").exists():
        Path("photos/holiday").mkdir(parents=True)
        for name in PHOTOGRAPHS:
            image = photograph(name)
            image.thumbnail((900, 900))
            image.save(f"photos/{name}.jpg", quality=90)
        photograph("coffee").resize((300, 200)).save("photos/holiday/coffee_half.png")
        photograph("china").crop((10, 10, 630, 417)).save("photos/holiday/china_crop.jpg")
        photograph("china").save("photos/holiday/IMG_2031.jpg", quality=40)
        photograph("chelsea").resize((226, 150)).save("photos/holiday/cat.jpg")
        photograph("astronaut").resize((256, 256)).save("photos/holiday/astronaut_small.png")
        Path("photos/holiday/IMG_2032.jpg").write_bytes(Path("photos/coffee.jpg").read_bytes())
        toy = ROOT / "examples/models/toy_vit"
        run("export", "--weights", toy, "--imgsz", 64, "--attention", "--out", "bundle")
    return Path("bundle")


def store() -> Path:
    """The photographs, embedded and indexed."""
    if not Path("embeddings").exists():
        run("embed", "photos", "--engine", bundle(), "--out", "embeddings")
        run("index", "embeddings", "--engine", "bundle")
    return Path("embeddings")


def maps(what: str) -> Path:
    names = ("coffee", "chelsea", "astronaut", "motorcycle_left", "china", "flower")
    at = bundle()
    page = Path(f"{what}.html")
    images = [f"photos/{name}.jpg" for name in names]
    run("visualize", *images, "--engine", at, "--what", what, "--out", f"maps-{what}", "--html", page)
    return page


def searched() -> Path:
    run("search", store(), "--image", "photos/coffee.jpg", "-k", 10, "--html", "search.html")
    return Path("search.html")


def deduplicated() -> Path:
    run("dedupe", store(), "--threshold", 0.93, "--html", "dedupe.html")
    return Path("dedupe.html")


def reported() -> Path:
    run("check", bundle(), "--report", "check.html")
    return Path("check.html")


def predicted() -> Path:
    from tests.support.pages.samples import predicted as page

    Path("predict.html").write_text(page("segment", plain=True), "utf-8")
    return Path("predict.html")


def words() -> Path:
    """The search of docs/words.md."""
    from dinov3_ref.data.toy.captions import main as write_captions

    write_captions(["captions", "--images", "1", "--test", "400"])
    models = ROOT / "examples/models"
    head = ("--head", models / "toy_words/model.safetensors", "--vocab", models / "toy_words/vocabulary.txt")
    run("export", "--weights", models / "toy_vit", *head, "--imgsz", 32, "--out", "words")
    run("embed", "captions/test", "--engine", "words", "--out", "shapes", "--outputs", "image_embedding")
    run("index", "shapes", "--engine", "words", "--output", "image_embedding")
    texts = ("a large orange cross on a checked purple background", "a green star")
    asked = [part for text in texts for part in ("--text", text)]
    run("search", "shapes", *asked, "-k", 7, "--html", "words.html")
    return Path("words.html")


def served() -> str:
    """The address of a service with the toy model at 256 px; it ends with this process."""
    from tests.support.processes.live_service import live

    bundle()  # makes the photographs
    run("export", "--weights", ROOT / "examples/models/toy_vit", "--imgsz", 256, "--out", "large")
    run("embed", *sorted(Path("photos").glob("*.jpg")), "--engine", "large", "--out", "served")
    run("index", "served", "--engine", "large")
    service = RUNNING.enter_context(live(Path("large"), index=Path("served")))
    return str(service.base_url)


def show_cat(page: Any) -> None:
    page.set_input_files("#file", "photos/chelsea.jpg")
    page.wait_for_selector("#neighbours li:nth-child(6)")
    page.click("#image", position={"x": 110, "y": 140})


def click_patch(page: Any) -> None:
    page.locator("canvas").first.click(position={"x": 180, "y": 110})


SHOTS = {
    "visualize-pca": Shot(lambda: maps("pca"), 820),
    "visualize-similarity": Shot(lambda: maps("similarity"), 820, act=click_patch),
    "visualize-attention": Shot(lambda: maps("attention"), 820, "dark"),
    "visualize-foreground": Shot(lambda: maps("foreground"), 820),
    "search-sheet": Shot(searched, 640),
    "dedupe-sheet": Shot(deduplicated, 600),
    "predict-page": Shot(predicted, 860),
    "parity-report": Shot(reported, 1160),
    "serve-page": Shot(served, 920, act=show_cat),
    "words-sheet": Shot(words, 760),
}


def main(names: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    from tests.support.pages.browser import CHROMIUM

    unknown = [name for name in names if name not in SHOTS]
    if unknown:
        sys.exit(f"unknown screenshot: {', '.join(unknown)}; there are {', '.join(SHOTS)}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright, RUNNING:
        os.chdir(folder)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in names or SHOTS:
            shot = SHOTS[name]
            made = shot.make()
            at = made if isinstance(made, str) else made.resolve().as_uri()
            size: Any = {"width": WIDTH, "height": shot.height}
            scheme: Any = shot.scheme
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(at)
            page.wait_for_timeout(500)
            shot.act(page)
            page.wait_for_timeout(300)
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            shown = image.resize((SHOWN, round(image.height * SHOWN / WIDTH)), Image.Resampling.LANCZOS)
            shown.save(IMAGES / f"{name}.jpg", quality=QUALITY, optimize=True, progressive=True)
            page.close()
        browser.close()
        os.chdir(ROOT)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
