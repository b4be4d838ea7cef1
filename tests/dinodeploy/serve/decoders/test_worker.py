"""One decoder process: its results, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.serve.decoders.formats import ACCEPTED
from dinodeploy.serve.decoders.wire import Job
from dinodeploy.serve.decoders.worker import run_job
from tests.support.images.hostile_images import encode, hostile_files
from tests.support.images.photographs import photograph

PREPROCESS = Preprocess.from_preset("official", (64, 96), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
JOB = Job("embed", 400_000, ACCEPTED, PREPROCESS)


def test_pixels_equal_those_of_this_process() -> None:
    data = encode(photograph("chelsea"), "JPEG")
    reply, result = run_job(JOB, data)
    wanted = PREPROCESS(open_image(data))
    assert reply["shape"] == list(wanted.shape) == [3, 64, 96]
    assert bytes(result) == wanted.tobytes()
    assert (reply["width"], reply["height"]) == photograph("chelsea").size


def test_a_costly_image_is_not_decoded_in_a_hurry() -> None:
    data = encode(Image.new("RGB", (600, 600)), "PNG")
    reply, result = run_job(Job("embed", 400_000, ACCEPTED, PREPROCESS, heavy_from=0.001), data)
    assert reply["pixels"] == 360_000
    assert reply["heavy"] > 0.001
    assert result == b""


def test_refusals_name_no_file_and_have_a_status() -> None:
    for data, status, words in (
        (encode(Image.new("RGB", (1000, 500)), "PNG"), 413, "wanted at most 400000"),
        (b"hello", 422, "not an image"),
        (encode(photograph("coffee"), "JPEG")[:900], 422, "cannot be decoded"),
    ):
        reply, _ = run_job(JOB, data)
        assert reply["status"] == status
        assert words in reply["refused"]
        assert not reply["refused"].startswith("bytes")


@pytest.mark.parametrize("name", ["BMP run-length", "PPM text", "PGM maximum"])
def test_what_pillow_decodes_in_python_is_refused(name: str) -> None:
    data = hostile_files()[name]
    reply, _ = run_job(JOB, data)
    assert reply["status"] == 422
    assert "slow variant" in reply["refused"]


def test_a_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(photograph("coffee"), "PNG"))
    reply, jpeg = run_job(Job("thumbnail", 400_000, ACCEPTED, side=32), str(path).encode())
    assert reply == {"done": True}
    assert max(open_image(bytes(jpeg)).size) == 32
    assert run_job(Job("thumbnail", 400_000, ACCEPTED, side=32), b"nowhere.png")[0]["status"] == 422


def test_a_worker_imports_no_runtime() -> None:
    code = (
        "import sys, dinodeploy.serve.decoders.worker; "
        "print(sorted({'torch', 'onnxruntime', 'openvino', 'fastapi', 'typer'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    assert np.__name__ == "numpy"
