"""The page at / in a real browser: send an image, see maps and neighbours; nothing comes from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from dinodeploy.serve.access import read_keys
from dinodeploy.visualize.heat import SCALE
from tests.support.head_facts import head_facts
from tests.support.images.image_files import NAMES, encoded
from tests.support.processes.live_service import Live, live
from tests.support.text.words import SHAPES, write_shapes

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
KEY = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def service(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    from dinodeploy.cli.app import make_app

    folder = tmp_path_factory.mktemp("page")
    for name in NAMES:
        (folder / f"{name}.jpg").write_bytes(encoded(name, (320, 240)))
    arguments = ["embed", str(folder), "--engine", str(tiny_bundle), "--out", str(folder / "out")]
    make_app()(arguments, standalone_mode=False)
    make_app()(["index", str(folder / "out")], standalone_mode=False)
    (folder / "china.jpg").unlink()  # one neighbour has gone since
    (folder / "keys").write_text(KEY)
    with live(tiny_bundle, index=folder / "out", keys=read_keys(folder / "keys")) as client:
        yield client


@pytest.fixture
def page(service: Live) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 960})
        page.set_default_timeout(30_000)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(str(service.base_url))
        yield page
        browser.close()


def test_drop_a_picture(page: Any, service: Live, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.wait_for_selector("#key:not([hidden])")
    page.fill("#secret", KEY)
    page.click("#key button")
    page.wait_for_selector("#model:has-text('fp32')")
    page.set_input_files(
        "#file", {"name": "cat.jpg", "mimeType": "image/jpeg", "buffer": encoded("chelsea", (480, 320))}
    )
    page.wait_for_selector("#neighbours li:nth-child(6)")
    expect(page.locator("#neighbours img")).to_have_count(5)
    expect(page.locator(".tile", has_text="no longer there")).to_have_count(1)
    assert "480 × 320 px, 16 × 16 patches of 128 numbers" in page.text_content("#status")
    assert page.text_content("#neighbours li:first-child p").split()[1] == "chelsea.jpg"
    colours = (
        "(id) => new Set(new Uint32Array(document.getElementById(id).getContext('2d')"
        ".getImageData(0, 0, 16, 16).data.buffer)).size"
    )
    assert page.evaluate(colours, "pca") > 100
    assert page.evaluate(colours, "similarity") > 50
    page.click("#image", position={"x": 3, "y": 3})
    assert page.text_content("#to") == "patch 0, 0"
    assert page.text_content("#high") == "1.00"
    assert page.evaluate(
        "[...document.getElementById('similarity').getContext('2d').getImageData(0, 0, 1, 1).data]"
    ) == [*SCALE[-1], 255]
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.problems == []
    assert all(url.startswith((str(service.base_url), "blob:")) for url in page.asked)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1600, "light")])
def test_the_empty_page_explains_and_has_a_sample(
    tiny_bundle: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    from playwright.sync_api import sync_playwright

    with live(tiny_bundle, served_model_name="dinov3") as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto(str(service.base_url))
        page.wait_for_selector("#api:not([hidden])")
        explained = page.locator("#start dt:visible").all_inner_texts()
        assert explained == ["Patch features", "Similarity", "Your image"], "no head, labels or index"
        routes = page.locator("#routes code").all_inner_texts()
        assert routes == ["/embed", "/v1/embeddings", "/model", "/metrics"]
        assert 'create(model="dinov3", input=url)' in page.inner_text("#openai")
        page.click("#sample")
        page.wait_for_selector("#views:not([hidden])")
        assert "400 × 266 px" in page.inner_text("#status")
        assert page.is_hidden("#start")
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
        page.goto(str(service.base_url.join("/docs")))
        assert f"curl -F files=@cat.jpg {str(service.base_url).rstrip('/')}/embed" in page.inner_text("main")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        browser.close()
    assert problems == []


def test_what_is_no_picture_is_said(page: Any) -> None:
    page.fill("#secret", KEY)
    page.click("#key button")
    page.wait_for_selector("#model:has-text('fp32')")
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"<script>"})
    page.wait_for_selector("#status.fail")
    assert "not an image" in page.text_content("#status")
    assert page.is_hidden("#views")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_search_by_words(
    words_bundle: Path, tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    """The box appears with an index of image embeddings; an image that is dropped shows its labels."""
    from playwright.sync_api import sync_playwright

    from dinodeploy import embed
    from dinodeploy.search import build_index

    write_shapes(tmp_path / "shapes", SHAPES)
    embed(tmp_path / "shapes", engine=words_bundle, out=tmp_path / "store", outputs=("image_embedding",))
    build_index(tmp_path / "store", output="image_embedding")
    (tmp_path / "labels.txt").write_text("a red circle\n<b>a yellow star</b>\n")
    settings = {"index": tmp_path / "store", "labels": tmp_path / "labels.txt", "templates": "none"}
    with live(words_bundle, **settings) as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto(str(service.base_url))
        page.wait_for_selector("#words:not([hidden])")
        page.fill("#text", "a large red circle on a striped blue background")
        page.press("#text", "Enter")
        page.wait_for_selector("#neighbours li:nth-child(6) img")
        assert page.text_content("#neighbours li:first-child p").split()[1] == "a.png"  # type: ignore[union-attr]
        assert page.text_content("#found h2") == "“a large red circle on a striped blue background”"
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
        page.set_input_files("#file", tmp_path / "shapes" / "a.png")
        page.wait_for_selector("#classes li:nth-child(2)")
        assert page.text_content("#classes li:first-child span") == "a red circle"
        assert page.text_content("#classes li:nth-child(2) span") == "<b>a yellow star</b>"
        page.wait_for_selector("#found h2:has-text('Nearest in the index')")
        assert page.locator("#similarity").evaluate("canvas => canvas.width") == 4
        browser.close()
    assert problems == []


def test_the_prediction_is_drawn(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes, names and scores of a detector over the image."""
    from playwright.sync_api import sync_playwright

    from dinodeploy.serve.bodies import predictions
    from dinodeploy.tasks.predict import PREDICT_ONE
    from dinodeploy.tasks.prediction import Prediction, Region
    from dinodeploy.tasks.results.draw import Legend

    head = head_facts("detect", outputs=("patch",), classes=("cat", "cup"))
    found = Prediction("detect", regions=(Region(1, "cup", 0.9, (48, 32, 240, 160)),))
    monkeypatch.setattr(predictions, "head_of", lambda service: head)
    monkeypatch.setitem(PREDICT_ONE, "detect", lambda *_: found)
    with live(tiny_bundle) as client, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(30_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(str(client.base_url))
        page.wait_for_selector("#model:has-text('fp32')")
        file = {"name": "cat.jpg", "mimeType": "image/jpeg", "buffer": encoded("chelsea", (480, 320))}
        page.set_input_files("#file", file)  # type: ignore[arg-type]
        page.wait_for_selector("#regions li")
        assert page.locator("#regions li").all_inner_texts() == ["cup\n0.90"]
        colour = page.evaluate(
            "[...document.getElementById('prediction').getContext('2d').getImageData(48, 100, 1, 1).data]"
        )
        assert max(abs(a - b) for a, b in zip(colour, Legend().colour(1), strict=False)) < 60
        assert problems == []
        browser.close()
