"""Bundles that take bytes give the embeddings of those that take normalised pixels."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import dinodeploy
from dinodeploy import Embedder, MisuseError, load_embeddings
from dinodeploy.bundle.bundle import GOLDEN_FILE, open_bundle
from dinodeploy.images.preprocess import MAX_PATCHES, PRESETS, Preprocess
from dinodeploy.parity.golden import load_golden
from dinodeploy.triton.repository import Options, write_repository
from dinodeploy.web.site import write_site
from dinov3_ref.checkpoints import random_checkpoint
from exporters.bisect import bisect_bundle
from exporters.debug.material import PIXELS
from tests.support.images.photographs import photograph
from tests.support.processes.live_service import live
from tests.support.tiny_models import ONNXRUNTIME, export_passing, export_tiny, tiny_config, tiny_convnext

SIZES = [(64, 96), (112, 48), (80, 80)]
NAMES = ("astronaut", "chelsea", "coffee")
LIMIT = 3e-6  # of fp32 against fp32; measured 5e-7


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle of `tiny_bundle`'s weights, with bytes as its input."""
    return export_tiny(tmp_path_factory.mktemp("bytes") / "bundle", input="uint8", imgsz=(64, 96)).root


def error(got: Any, wanted: Any) -> float:
    return float(np.linalg.norm(np.asarray(got) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("device", ["onnxruntime", "openvino"])
def test_the_same_embeddings(device: str, of_bytes: Path, tiny_bundle: Path) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    images = [np.asarray(photograph(name)) for name in NAMES]
    with Embedder.open(of_bytes, device=device) as got, Embedder.open(tiny_bundle, device=device) as wanted:
        for size in SIZES:
            for output in ("cls", "patch"):
                rows = [one.encode(images, output=output, imgsz=size) for one in (got, wanted)]
                assert error(*rows) < LIMIT


def test_openvino_compiles_for_squares_and_its_own_size(of_bytes: Path) -> None:
    pytest.importorskip("openvino")
    with Embedder.open(of_bytes, device="openvino", allow_unverified=True) as embedder:
        backend: Any = embedder.backend
        shapes = [(1, 64, 96, 3), (2, 80, 80, 3), (1, 96, 64, 3), (1, 3, 96, 3)]
        assert [backend.is_fixed(shape) for shape in shapes] == [True, True, False, False]


def test_the_input_is_cast_and_turned(of_bytes: Path) -> None:
    for file in open_bundle(of_bytes).manifest.engines:
        graph = onnx.load(of_bytes / file, load_external_data=False).graph
        (given,) = graph.input
        assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        sides = [side.dim_value or side.dim_param for side in given.type.tensor_type.shape.dim]
        assert sides == ["batch", "height", "width", 3]
        assert [node.op_type for node in graph.node if PIXELS in node.input] == ["Cast"]


def test_floats_on_grey_levels_give_the_numbers_of_bytes(of_bytes: Path) -> None:
    with Embedder.open(of_bytes) as embedder:
        for case in load_golden(of_bytes / GOLDEN_FILE):
            grey = embedder.preprocess.for_engine(case.pixels)
            assert grey.dtype == np.uint8
            got, wanted = embedder.run(case.pixels)["cls"], embedder.run(grey)["cls"]
            np.testing.assert_array_equal(got, wanted)
        with pytest.raises(MisuseError, match="this bundle takes bytes"):
            embedder.run(np.zeros((1, 3, 64, 96), np.float32))
        embedder.warm_up(64)


def test_a_store_has_its_own_fingerprint(of_bytes: Path, tiny_bundle: Path) -> None:
    """Folded weights round differently, so results are equal to rounding and not to the bit."""
    ours, other = (open_bundle(path) for path in (of_bytes, tiny_bundle))
    prints = [one.choose().fingerprint(one.manifest.preprocess) for one in (ours, other)]
    assert prints[0]["preprocess"]["dtype"] == "uint8"
    assert "dtype" not in prints[1]["preprocess"], "older versions did not record it"
    assert '"dtype"' not in (tiny_bundle / "manifest.json").read_text().split('"outputs"')[0]


@pytest.mark.parametrize(
    ("preset", "decode"),
    [("official", "processes"), ("keep-aspect", "processes"), ("timm", "threads"), ("pad", "threads")],
)
def test_embed(preset: str, decode: str, of_bytes: Path, tmp_path: Path) -> None:
    for name in NAMES:
        photograph(name).save(tmp_path / f"{name}.png")
    options: dict[str, Any] = {"preprocess": preset, "imgsz": 64, "decode": decode, "workers": 2}
    dinodeploy.embed([tmp_path], engine=of_bytes, out=tmp_path / "out", device=ONNXRUNTIME, **options)
    ids, rows = load_embeddings(tmp_path / "out")
    with Embedder.open(of_bytes, device=ONNXRUNTIME, outputs=("cls",)) as embedder:
        steps = embedder.preprocess.with_preset(preset, (64, 64))
        for id_, row in zip(ids, rows, strict=True):
            pixels = steps.with_dtype("float32")(Image.open(id_).convert("RGB"))
            assert error(row, embedder.run(pixels[None])["cls"][0]) < LIMIT


def test_a_preset_that_resizes_on_floats_is_refused(of_bytes: Path, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="preprocessing hf resizes on floats"):
        export_tiny(tmp_path / "b", input="uint8", preset="hf")
    photograph("coffee").save(tmp_path / "a.png")
    with pytest.raises(MisuseError, match="preprocessing hf resizes on floats"):
        dinodeploy.embed([tmp_path], engine=of_bytes, out=tmp_path / "out", preprocess="hf")
    with pytest.raises(MisuseError, match="input is 'uint16'; wanted float32 or uint8"):
        export_tiny(tmp_path / "b", input="uint16")


def test_black_borders_are_the_same_number() -> None:
    """What `pad` adds is byte 0 of the image, no padding of a convolution."""
    steps = Preprocess("pad", 64, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    wide = photograph("coffee").resize((90, 40))
    grey = steps.with_dtype("uint8")(wide)
    assert not grey[-8:].any()
    floats = steps(wide)
    np.testing.assert_array_equal(steps.with_dtype("uint8").normalised(grey), floats)
    np.testing.assert_array_equal(steps.with_dtype("uint8").for_engine(floats[None])[0], grey)


@pytest.mark.parametrize("preset", [name for name, steps in PRESETS.items() if steps.dtype == "uint8"])
def test_a_quarter_of_the_bytes(preset: str) -> None:
    size = (224, 224)
    steps = Preprocess(preset, *size, (0.5,) * 3, (0.25,) * 3)
    (shape, dtype), (floats, _) = steps.with_dtype("uint8").largest_input, steps.largest_input
    assert dtype == "uint8"
    assert sorted(shape) == sorted(floats)
    assert math.prod(shape) == 3 * (256 * MAX_PATCHES if preset == "keep-aspect" else 224 * 224)


def test_bisect(of_bytes: Path) -> None:
    assert bisect_bundle(open_bundle(of_bytes).choose()).departs is None


def test_the_service(of_bytes: Path) -> None:
    data = io.BytesIO()
    photograph("coffee").save(data, "JPEG")
    with live(of_bytes) as client:
        (answer,) = client.embed(data.getvalue()).json()["images"]
    assert answer["input"] == [64, 96]
    with Embedder.open(of_bytes) as embedder:
        assert error(answer["outputs"]["cls"], embedder.encode(data.getvalue())) < LIMIT


def test_triton(of_bytes: Path, tmp_path: Path) -> None:
    write_repository(of_bytes, tmp_path, Options(name="tiny"))
    text = (tmp_path / "tiny_engine" / "config.pbtxt").read_text()
    assert "data_type: TYPE_UINT8\n  dims: [ -1, -1, 3 ]" in text
    assert "dims: [ 64, 96, 3 ]" in text, "of the warm-up"
    assert "TYPE_UINT8\n  dims: [ -1, -1, 3 ]" in (tmp_path / "tiny_preprocess" / "config.pbtxt").read_text()


def test_what_takes_no_bytes_says_so(of_bytes: Path, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="takes uint8, the page makes float32"):
        write_site([of_bytes], tmp_path / "page")


# ---- every recipe ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp16", "bf16", "int8", "fp8"])
def test_every_recipe_passes_the_judge(recipe: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config("swiglu", depth=2))
    export_passing(checkpoint, tmp_path / "b", recipe=recipe, input="uint8", imgsz=(64, 96))


@pytest.mark.slow
def test_a_convnext_passes_the_judge(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_convnext())
    export_passing(checkpoint, tmp_path / "b", input="uint8", imgsz=(64, 96))
