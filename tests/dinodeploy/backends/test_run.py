"""What `Embedder.run` takes and gives, on CPUs and with GPU arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinodeploy import Embedder, MisuseError
from dinodeploy.arrays import sides_of
from dinodeploy.backends.gpu_arrays import borrow
from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.bundle.manifest import read_manifest
from dinodeploy.images.inputs import check_pixels
from dinodeploy.images.preprocess import Preprocess
from tests.dinodeploy.backends.gpu_library import CLOSE, Library, LibraryArray, open_plan, pixels, wanted
from tests.dinodeploy.backends.gpu_machine import pretend_tensorrt


def test_only_outputs_that_are_asked_for(tiny_bundle: Path) -> None:
    """By a call, by `open`, and not for the judge, who sees all of them."""
    x = np.zeros((1, 3, 32, 48), np.float32)
    with Embedder.open(tiny_bundle, device="onnxruntime") as embedder:
        whole = embedder.run(x)
        got = embedder.run(x, outputs=("layer_1", "cls"))
        assert list(got) == ["layer_1", "cls"]
        for name in got:
            np.testing.assert_array_equal(got[name], whole[name])
        with pytest.raises(MisuseError, match=r"'logits' does not fit; .* has cls, storage, patch"):
            embedder.run(x, outputs=("logits",))
    with Embedder.open(tiny_bundle, device="onnxruntime", outputs=("patch", "cls")) as embedder:
        assert embedder.output_names == tuple(embedder.run(x)) == ("cls", "patch")
        assert list(embedder.embed([np.zeros((40, 60, 3), np.uint8)])) == ["cls", "patch"]
        assert list(embedder.run(x, outputs=("layer_1",))) == ["layer_1"]
        assert {"layer_1", "storage"} <= {one.output for one in embedder.check().measurements}


def test_on_a_cpu_device_is_the_host(tiny_bundle: Path) -> None:
    """The same program runs on both: from_dlpack takes numpy arrays too."""
    x = torch.rand(1, 3, 32, 48)
    with Embedder.open(tiny_bundle, device="onnxruntime", outputs=("cls",)) as embedder:
        outputs = embedder.run(x, to="device", stream=0)
        np.testing.assert_array_equal(torch.from_dlpack(outputs["cls"]).numpy(), embedder.run(x)["cls"])


def test_what_a_cpu_refuses(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    library = Library(pretend_tensorrt(monkeypatch).cuda)
    x = np.zeros((1, 3, 32, 48), np.float32)
    with Embedder.open(tiny_bundle, device="onnxruntime") as embedder:
        for protocol in ("dlpack", "interface"):
            with pytest.raises(MisuseError, match="wanted CPU memory: copy them there first"):
                embedder.run(library.array(x, protocol))
        with pytest.raises(MisuseError, match="to is 'cuda'; wanted host or device"):
            embedder.run(x, to="cuda")  # type: ignore[arg-type]
        for stream in (-1, "main", True):
            with pytest.raises(MisuseError, match="wanted a handle, such as torch"):
                embedder.run(x, stream=stream)  # type: ignore[arg-type]


def test_an_engine_that_takes_one_image(own_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    module = pretend_tensorrt(monkeypatch)
    library, x = Library(module.cuda), pixels()
    fixed = replace(read_manifest(own_bundle).graph, fixed=("batch",))
    with open_plan(own_bundle, module) as embedder:
        object.__setattr__(embedder.manifest, "graph", fixed)
        for name, value in embedder.run(library.array(x)).items():
            np.testing.assert_allclose(value, wanted(own_bundle, x)[name], **CLOSE)
        with pytest.raises(
            MisuseError, match=r"takes one image at a time; give to='device' one image a call"
        ):
            embedder.run(library.array(x), to="device")
        one = embedder.run(library.array(x[:1]), to="device")["cls"]
        np.testing.assert_allclose(one.numpy(), wanted(own_bundle, x[:1])["cls"], **CLOSE)


def test_bytes_on_the_gpu(monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    """A bundle that takes bytes takes them from the GPU as well, and converts nothing there."""
    library = Library(pretend_tensorrt(monkeypatch).cuda)
    cuda = Cuda(library.cuda)
    steps = Preprocess("official", 16, 32, (0.5,) * 3, (0.2,) * 3).with_dtype("uint8")
    levels = torch.zeros(2, 32, 48, 3, dtype=torch.uint8)
    borrowed = borrow(LibraryArray(library, levels, "dlpack"), int(library.stream), cuda)
    check_pixels(borrowed, steps, on_gpu=True)
    assert (borrowed.row_bytes, sides_of(borrowed)) == (32 * 48 * 3, (32, 48))
    assert borrowed[1:].address == levels.data_ptr() + borrowed.row_bytes
    floats = borrow(library.array(pixels()), int(library.stream), cuda)
    with pytest.raises(MisuseError, match=r"pixels are float32; wanted uint8 \[B,H,W,3\]"):
        check_pixels(floats, steps, on_gpu=True)
