"""`dinodeploy web` in a real browser: the receipt, the pixels and the embeddings; and transformers.js."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from dinodeploy.embedder import Embedder
from dinodeploy.errors import UnavailableError
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import PRESETS, Preprocess
from dinodeploy.web.packages import RUNTIME, Package, fetch
from dinodeploy.web.site import write_site
from tests.support.images.photographs import photograph
from tests.support.processes.static_files import served
from tests.support.tiny_models import ONNXRUNTIME

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
TRANSFORMERS_JS = Package(
    "@huggingface/transformers",
    "4.3.2",
    "sha512-V3+dqf3iWlRYJ9I9GreM3zGQd0lAXnnoPeddmkOQYWAEE4l/+Fi6p7tx/qVUJlKQgLXGim2W76rTOzz+eC0i7g==",
    ("transformers.web.min.js",),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def package(wanted: Package) -> Path:
    """The package's files; the test is skipped where npm's registry cannot be reached."""
    try:
        return fetch(wanted)
    except UnavailableError as error:
        pytest.skip(f"npm: {error}")


@pytest.fixture(scope="module")
def site(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site([tiny_bundle], tmp_path_factory.mktemp("web") / "site", runtime=package(RUNTIME)).root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(browser: Any, site: Path) -> Iterator[Any]:
    with served(site) as address:
        opened = open_page(browser, address)
        yield opened
        assert not opened.problems
        assert all(url.startswith(address) for url in opened.asked)  # nothing comes from elsewhere


def open_page(browser: Any, address: str) -> Any:
    opened = browser.new_page(viewport={"width": 1120, "height": 960})
    opened.set_default_timeout(60_000)
    opened.problems, opened.asked = [], []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#verdict.pass, #verdict.fail")
    return opened


def in_page(page: Any, content: bytes, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """What the page's own `embed` makes of a file."""
    script = """async ([text, kind]) => {
      const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const made = await embed(new File([bytes], "image", { type: kind }));
      return { cls: Array.from(made.cls), patch: Array.from(made.patches), pixels: Array.from(made.pixels) };
    }"""
    found = page.evaluate(script, [base64.b64encode(content).decode(), kind])
    return {name: np.array(values, np.float32) for name, values in found.items()}


def test_the_receipt_passes(page: Any) -> None:
    assert "Passed: on this device, 7 photographs" in page.text_content("#verdict")
    found = page.evaluate("window.receipt")
    assert found["relative"] < 1e-5
    assert found["grey"] <= 2.05
    figures = page.text_content("#figures")
    assert "WebAssembly, threads: 1" in figures
    assert f"onnxruntime-web of {RUNTIME.name}-{RUNTIME.version}" in figures


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return encoded(photograph("rocket"), "JPEG", quality=92, exif=exif)


def transparent() -> bytes:
    image = photograph("coffee").resize((301, 203)).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image, "PNG")


FILES = {
    "png": (lambda: encoded(photograph("rocket"), "PNG"), "image/png", 1e-5),
    "turned": (turned, "image/jpeg", 1e-2),  # decoders may differ by a grey level
    "transparent": (transparent, "image/png", 3e-2),  # and blending by another
}


@pytest.mark.parametrize("name", FILES)
def test_embeddings_are_those_of_python(page: Any, tiny_bundle: Path, name: str) -> None:
    make, kind, limit = FILES[name]
    content = make()
    found = in_page(page, content, kind)
    with Embedder.open(tiny_bundle, device=ONNXRUNTIME) as embedder:
        pixels = embedder.manifest.preprocess(open_image(content))
        wanted = {output: embedder.encode(content, output=output) for output in ("cls", "patch")}
    grey_levels = np.abs(found["pixels"] - pixels.ravel()).reshape(3, -1).max(axis=1) * np.array(STD) * 255
    assert grey_levels.max() <= (0.01 if name == "png" else 2.05)
    for output, reference in wanted.items():
        error = np.linalg.norm(found[output] - reference.ravel()) / np.linalg.norm(reference)
        assert error < limit, (output, error)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(427, 640), (97, 61), (1200, 300)])
def test_pixels_are_pillows(page: Any, preset: str, size: tuple[int, int]) -> None:
    """Shrunk and enlarged, wide and tall: never more than one grey level, and seldom that."""
    target = (64, 64) if PRESETS[preset].fit == "keep-aspect" else (112, 80)
    preprocess = Preprocess.from_preset(preset, target, MEAN, STD)
    image = photograph("chelsea").resize(size[::-1])
    wanted = preprocess(image)
    settings = {
        **{"fit": preprocess.steps.fit, "interpolation": preprocess.steps.interpolation},
        **{
            "dtype": preprocess.steps.dtype,
            "height": target[0],
            "width": target[1],
            "mean": MEAN,
            "std": STD,
        },
        "ratio": [preprocess.steps.resize_ratio.numerator, preprocess.steps.resize_ratio.denominator],
        **{"patch": preprocess.patch_size, "most": preprocess.max_patches},
    }
    script = """([text, w, h, settings]) => {
      const rgba = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const made = preprocess(rgba, w, h, settings);
      return [made.height, made.width, Array.from(made.pixels)];
    }"""
    raw = base64.b64encode(image.convert("RGBA").tobytes()).decode()
    height, width, values = page.evaluate(script, [raw, *image.size, settings])
    assert (height, width) == wanted.shape[1:]
    difference = np.abs(np.array(values).reshape(wanted.shape) - wanted) * np.array(STD)[:, None, None] * 255
    assert difference.max() <= 1.01
    if preprocess.steps.fit != "short-side-crop":  # there Pillow may resize rows before columns
        assert (difference > 0.01).mean() < 1e-3


def test_a_clicked_patch(page: Any) -> None:
    page.set_input_files(
        "#file",
        {"name": "rocket.png", "mimeType": "image/png", "buffer": encoded(photograph("rocket"), "PNG")},
    )
    page.wait_for_selector("#views:not([hidden])")
    assert "640 × 427 px" in page.text_content("#status")
    page.focus("#image")
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.text_content("#to") == "row 1, column 1"
    assert page.text_content("#high") == "1.00"
    page.keyboard.press("Escape")
    assert page.text_content("#to") == "CLS"


def test_wrong_normalisation_fails_the_receipt(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    file = tmp_path / "site/index.html"
    page = file.read_text()
    assert page.count('"mean": [0.485,') == 1
    file.write_text(page.replace('"mean": [0.485,', '"mean": [0.5,'))
    with served(tmp_path / "site") as address:
        opened = open_page(browser, address)
        assert "Failed: pixels of case" in opened.text_content("#verdict")
        assert "Do not use these embeddings" in opened.text_content("#verdict")


def test_a_missing_file_is_said_in_plain_words(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site/fp32/model.onnx.data").unlink()
    with served(tmp_path / "site") as address:
        opened = open_page(browser, address)
        assert "fp32/model.onnx.data: the server answers 404; copy the whole folder" in opened.text_content(
            "#verdict"
        )
        assert opened.is_disabled("#file")


def test_transformers_js_loads_the_layout(browser: Any, tmp_path: Path) -> None:
    """`pipeline('image-feature-extraction')` on an image of the model's own size, in each dtype."""
    import dinodeploy
    from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
    from tests.support.tiny_models import tiny_config

    script = package(TRANSFORMERS_JS) / TRANSFORMERS_JS.files[0]
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(
        random_checkpoint(tiny_config(embed_dim=64, num_heads=1, depth=2), 3), "official", weights
    )
    dinodeploy.export_transformers(
        weights, tmp_path / "www/model", precision=("fp32", "int8"), imgsz=(48, 64)
    )
    shutil.copyfile(script, tmp_path / "www/transformers.js")
    shutil.copytree(package(RUNTIME), tmp_path / "www/runtime")
    content = encoded(photograph("coffee").resize((64, 48)), "PNG")
    (tmp_path / "www/coffee.png").write_bytes(content)
    imports = {
        "onnxruntime-web/webgpu": "./runtime/ort.webgpu.min.mjs",
        "onnxruntime-common": "./runtime/ort.webgpu.min.mjs",
    }
    (tmp_path / "www/index.html").write_text(
        f"""<script type="importmap">{json.dumps({"imports": imports})}</script>
        <p id="verdict"></p><script type="module">
        import {{ env, pipeline }} from "./transformers.js";
        env.allowRemoteModels = false; env.allowLocalModels = true; env.localModelPath = "/";
        env.backends.onnx.wasm.wasmPaths = new URL("runtime/", location.href).href;
        env.backends.onnx.wasm.numThreads = 1;
        window.extract = async (options) => {{
          const extract = await pipeline("image-feature-extraction", "model", options);
          const features = await extract("/coffee.png");
          return [features.dims, Array.from(features.data)];
        }};
        document.getElementById("verdict").className = "pass";</script>"""
    )
    preprocess = Preprocess.from_preset("official", (48, 64), MEAN, STD)
    session = onnxruntime.InferenceSession(tmp_path / "www/model/onnx/model.onnx")
    wanted = session.run(None, {"pixel_values": preprocess(open_image(content))[None]})[0][0]
    with served(tmp_path / "www") as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("() => Boolean(window.extract)")
        for options, limit in (({"dtype": "fp32"}, 1e-5), ({}, 0.1)):  # int8 is the default on WebAssembly
            dims, values = page.evaluate("(options) => window.extract(options)", options)
            assert dims == [1, *wanted.shape]
            got = np.array(values).reshape(wanted.shape)
            error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
            assert error < limit, (options, error)
        assert error > 1e-4  # another graph than fp32
