"""The page at / in a real browser: send an image, see maps and neighbours; nothing comes from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.serve.access import read_keys
from tests.support.images.image_files import NAMES, encoded
from tests.support.processes.live_service import Live, live

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
    ) == [253, 231, 37, 255]
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.problems == []
    assert all(url.startswith((str(service.base_url), "blob:")) for url in page.asked)


def test_what_is_no_picture_is_said(page: Any) -> None:
    page.fill("#secret", KEY)
    page.click("#key button")
    page.wait_for_selector("#model:has-text('fp32')")
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"<script>"})
    page.wait_for_selector("#status.fail")
    assert "not an image" in page.text_content("#status")
    assert page.is_hidden("#views")
