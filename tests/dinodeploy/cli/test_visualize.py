"""`dinodeploy visualize`: files, refusals, and the page in a real browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy.visualize.heat import SCALE
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine, assert_refused

NASTY = "</script><img src=x onerror=alert(1)>&\"'.png"  # a slash cannot be in a name: see below
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of different shape, one with a name that would break a careless page."""
    folder = tmp_path_factory.mktemp("photos")
    photograph("coffee").resize((300, 200)).save(folder / "coffee.jpg")
    photograph("rocket").resize((160, 200)).save(folder / NASTY.replace("/", "∕"))
    photograph("chelsea").resize((10, 10)).save(folder / "z<b>.png")
    return folder


def test_maps_of_every_kind(attentive_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine) -> None:
    for what, extra in (
        ("pca", ("--mask", "auto")),
        ("attention", ()),
        ("similarity", ("--point", "0,199")),
        ("foreground", ()),
    ):
        ran = run(
            "visualize", photos, "--engine", attentive_bundle, "--what", what, "--out", tmp_path / what,
            "--imgsz", 64, "--json", *extra,
        )  # fmt: skip
        assert ran.code == 0, ran.err
        facts = ran.json
        assert (facts["pictures"], facts["skipped"], facts["page"]) == (3, [], None)
        listed = [name for names in facts["files"].values() for name in names]
        assert sorted([*listed, "visualize.json"]) == sorted(
            path.name for path in (tmp_path / what).iterdir()
        )
        assert len(listed) == (9 if what == "attention" else 3)  # mean and two heads
        with Image.open(tmp_path / what / f"coffee.{what}.png") as picture:
            assert picture.size == (300, 200)
            assert what == "foreground" or np.asarray(picture).std() > 0
        if what == "similarity":
            assert "row 4, column 0 of" in facts["shows"]
    assert json.loads((tmp_path / "pca" / "visualize.json").read_text())["what"] == "pca"


def test_attention_of_the_reference_is_the_bundles(
    attentive_bundle: Path, tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    """`--checkpoint` where the bundle has none: the same map from the weights it was made of."""
    from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
    from tests.support.tiny_models import tiny_config

    save_checkpoint(random_checkpoint(tiny_config()), "official", tmp_path / "model.safetensors")
    pictures = (photos / "coffee.jpg", "--what", "attention", "--imgsz", 64)
    assert run("visualize", *pictures, "--engine", attentive_bundle, "--out", tmp_path / "a").code == 0
    reference = ("--checkpoint", tmp_path / "model.safetensors")
    ran = run("visualize", *pictures, "--engine", tiny_bundle, "--out", tmp_path / "b", *reference)
    assert ran.code == 0, ran.err
    maps = [np.asarray(Image.open(tmp_path / side / "coffee.attention.head_1.png"), int) for side in "ab"]
    assert np.abs(maps[0] - maps[1]).max() <= 1
    ran = run(
        "visualize", *pictures, "--engine", tiny_bundle, "--out", tmp_path / "c", *reference, "--layer", "0"
    )
    assert ran.code == 0, ran.err
    first = np.asarray(Image.open(tmp_path / "c" / "coffee.attention.head_1.png"), int)
    assert np.abs(maps[0] - first).max() > 20


def test_unreadable_pictures_are_named(
    attentive_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    arguments = ("--engine", attentive_bundle, "--imgsz", 64, "--out", tmp_path / "out")
    ran = run("visualize", tmp_path / "broken.jpg", photos / "coffee.jpg", *arguments)
    assert ran.code == 5
    assert "broken.jpg" in ran.err
    assert (tmp_path / "out" / "coffee.pca.png").is_file()
    ran = run("visualize", tmp_path / "broken.jpg", *arguments, "--overwrite")
    assert ran.code == 2
    assert "none of 1 images can be read" in ran.error
    assert (tmp_path / "out" / "coffee.pca.png").is_file(), "what was there is still there"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--what", "depth"), "--what 'depth' is unknown; known: pca"),
        (("--what", "attention"), "has no attention output; export it with --attention"),
        (("--imgsz", "70"), "use 64 or 80"),
        (("--imgsz", "0"), "--imgsz is 0"),
        (("--point", "3,4"), "--point belongs to --what similarity, not pca"),
        (("--what", "similarity", "--point", "3"), "wanted X,Y in pixels"),
        (("--what", "similarity", "--point", "300,20"), "is outside"),
        (("--what", "similarity", "--mask", "auto"), "--mask belongs to --what pca or foreground"),
        (("--layer", "1"), "--layer needs --checkpoint"),
        (("--mask", "nowhere"), "--mask 'nowhere' is not a folder"),
        (("--html", "."), "is a folder; wanted a file"),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[str, ...], message: str, tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    arguments = [
        "visualize",
        photos / "coffee.jpg",
        "--engine",
        tiny_bundle,
        "--out",
        tmp_path / "out",
        *options,
    ]
    assert_refused(run(*arguments), message, tmp_path, [])


def test_other_peoples_folders_are_not_replaced(
    tiny_bundle: Path, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = ("visualize", photos / "coffee.jpg", "--engine", tiny_bundle, "--imgsz", 64, "--out")
    ran = run(*arguments, tmp_path, "--overwrite")
    assert_refused(ran, "exists and holds no maps", tmp_path, [tmp_path / "thesis.txt"])
    assert run(*arguments, tmp_path / "maps").code == 0
    assert "use --overwrite" in run(*arguments, tmp_path / "maps").error
    page = tmp_path / "maps" / "page.html"  # inside what is replaced
    for _ in range(2):
        assert run(*arguments, tmp_path / "maps", "--overwrite", "--html", page).code == 0
        assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
            "coffee.pca.png",
            "page.html",
            "visualize.json",
        ]


# ---- the page ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_file(attentive_bundle: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dinodeploy.embedder import Embedder
    from dinodeploy.sources.folders import list_images
    from dinodeploy.visualize.look import steps_for
    from dinodeploy.visualize.write import visualize

    folder = tmp_path_factory.mktemp("page")
    with Embedder.open(attentive_bundle) as embedder:
        steps = steps_for(embedder, 128)
        ids = list_images([photos])
        visualize(embedder, ids, "attention", folder / "maps", steps=steps, page=folder / "page.html")
    return folder / "page.html"


def test_the_page_needs_nothing_else(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<script") == text.count("</script>") == 2, "names cannot end a script"
    assert "<img" not in text
    assert "z&lt;b&gt;.png" in text


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


PIXEL = """([index, x, y]) => {
  const canvas = document.querySelectorAll('canvas')[index];
  const { data } = canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1);
  return [...data].slice(0, 3);
}"""


def test_the_page_works_in_a_browser(page_file: Path, browser: Any) -> None:
    """From a file: blend, click, keyboard, another layer; pixels are read back."""
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: problems.append(asked.url) if asked.url.startswith("http") else None)
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready=yes]")

    def pixel(index: int, x: float, y: float) -> list[int]:
        found: list[int] = page.evaluate(PIXEL, [index, x, y])
        return found

    def slide(percent: int) -> None:
        page.evaluate("v => { blend.value = v; blend.dispatchEvent(new Event('input')); }", percent)

    # the slider: the image alone, the map alone
    slide(0)
    names = page.locator("figcaption b").all_inner_texts()
    coffee = names.index("coffee.jpg")
    wanted = photograph("coffee").resize((300, 200)).getpixel((30, 100))
    np.testing.assert_allclose(pixel(coffee, 0.1, 0.5), wanted, atol=30)  # JPEG, twice
    slide(100)
    assert np.abs(np.subtract(pixel(coffee, 0.1, 0.5), wanted)).max() > 10
    mean = pixel(coffee, 0.7, 0.7)
    page.select_option("#layer", "head 1")
    assert pixel(coffee, 0.7, 0.7) != mean

    # a click: the patch itself is at the end of the scale, every image has the same scale
    canvas = page.locator("canvas").nth(coffee)
    frame = canvas.bounding_box()
    canvas.click(position={"x": frame["width"] * 5.5 / 12, "y": frame["height"] * 3.5 / 8})
    assert page.inner_text("#status") == "Cosine to row 3, column 5 of coffee.jpg"
    np.testing.assert_allclose(pixel(coffee, 5.5 / 12, 3.5 / 8), SCALE[-1], atol=25)
    assert page.inner_text("#scale").split()[::2] == ["cosine", "1.00"]
    assert page.is_visible("#back")

    # the same patch by keyboard, from the middle (row 4, column 6)
    page.keyboard.press("Escape")
    assert page.is_hidden("#back")
    canvas.focus()
    for key in ("ArrowDown", "ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert page.inner_text("#status") == "Cosine to row 3, column 5 of coffee.jpg"
    page.click("#back")
    assert page.inner_text("#status").startswith("Click a patch")
    assert problems == []
    page.close()


def test_names_cannot_collide(attentive_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    """Nor do names that are long, reserved or not UTF-8 give files that some system refuses."""
    photo = photograph("coffee").resize((60, 40))
    odd = os.fsdecode(b"caf\xe9.png")
    for name in ("a/x.png", "b/x.png", "c/X.png", "d/x~2.png", "e/con.png", f"f/{'y' * 240}.png", f"g/{odd}"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        photo.save(path)
    ran = run(
        "visualize", tmp_path / "in", "--engine", attentive_bundle, "--what", "attention", "--imgsz", 64,
        "--out", tmp_path / "out", "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    facts = json.loads((tmp_path / "out" / "visualize.json").read_bytes())
    listed = [name for names in facts["files"].values() for name in names]
    assert len({name.casefold() for name in listed}) == len(listed) == 21
    assert all(len(name.encode()) < 143 and not name.startswith("con.") for name in listed)
    assert sorted([*listed, "visualize.json"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert str(tmp_path / "in" / "g" / odd) in facts["files"]
    again = run(
        "visualize", tmp_path / "in/g", "--engine", attentive_bundle, "--imgsz", 64,
        "--out", tmp_path / "out", "--overwrite", "--json",
    )  # fmt: skip
    assert again.code == 0, again.err
