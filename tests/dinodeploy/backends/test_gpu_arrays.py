"""What an array in GPU memory must be, as input, and what our outputs offer, by both protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinodeploy import MisuseError
from dinodeploy.backends.gpu_arrays import is_gpu_array
from dinodeploy.embedder import Embedder
from tests.dinodeploy.backends.fake_tensorrt import FakeTensorRT
from tests.dinodeploy.backends.gpu_library import (
    CLOSE,
    SHAPE,
    Library,
    LibraryArray,
    open_plan,
    pixels,
    wanted,
)
from tests.dinodeploy.backends.gpu_machine import pretend_tensorrt


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch, gpu: None) -> FakeTensorRT:
    return pretend_tensorrt(monkeypatch, "10.3")


def test_which_memory_is_a_gpus(old: FakeTensorRT) -> None:
    library = Library(old.cuda)
    for protocol in ("dlpack", "versioned", "interface"):
        assert is_gpu_array(library.array(pixels(), protocol))
    for array in (pixels(), torch.zeros(1), [1.0], None):
        assert not is_gpu_array(array)


def refused(embedder: Embedder, array: Any, message: str) -> None:
    with pytest.raises(MisuseError, match=message) as caught:
        embedder.run(array, to="device")
    assert "\n" not in str(caught.value)


def test_arrays_that_do_not_fit(own_bundle: Path, old: FakeTensorRT) -> None:
    library = Library(old.cuda)

    def made(tensor: torch.Tensor, protocol: str = "dlpack") -> LibraryArray:
        return LibraryArray(library, tensor, protocol)

    with open_plan(own_bundle, old) as embedder:
        plain = library.empty(SHAPE)
        refused(embedder, library.array(pixels(), number=1), r"on GPU 1; .*runs on GPU 0: .*CUDA_VISIBLE")
        refused(embedder, made(plain.half()), "pixels are float16; wanted float32")
        refused(embedder, made(plain.bfloat16()), "pixels are bfloat16; wanted float32")
        refused(embedder, made(plain[0]), r"shape \[3, 48, 80\]; wanted \[B,3,H,W\]")
        refused(embedder, made(plain[..., :79].contiguous()), "48x79; wanted multiples of the patch size 16")
        refused(embedder, made(plain[..., :64]), r"strides \[11520, 3840, 80, 1\]; wanted contiguous")
        refused(embedder, made(plain.to(memory_format=torch.channels_last)), r"x\.contiguous\(\) in torch")
        refused(embedder, made(torch.zeros(SHAPE, requires_grad=True)), "cannot be shared: .*grad")
        strange = made(plain, "interface")
        facts = strange.__cuda_array_interface__
        facts["mask"] = object()
        refused(embedder, strange, "pixels have a mask")
        facts |= {"mask": None, "strides": (1, 2, 3, 4)}
        refused(embedder, strange, "wanted contiguous")
        facts |= {"strides": None, "typestr": "<f8"}
        refused(embedder, strange, "pixels are float64; wanted float32")
        del facts["typestr"]
        refused(embedder, strange, "cannot be shared: ")


def test_arrays_without_a_stream(own_bundle: Path, old: FakeTensorRT) -> None:
    """Version 3 without one: nothing to wait for. Version 2 cannot say: the default stream is waited for."""
    library, x = Library(old.cuda), pixels()
    with open_plan(own_bundle, old) as embedder:
        array = library.array(x, "interface")
        old.cuda.cudaStreamSynchronize(library.stream)
        array.__cuda_array_interface__["stream"] = None
        np.testing.assert_allclose(embedder.run(array)["cls"], wanted(own_bundle, x)["cls"], **CLOSE)
        late = library.array(x, "interface")
        library.order(library.stream, 1)
        late.__cuda_array_interface__["version"] = 2
        del late.__cuda_array_interface__["stream"]
        np.testing.assert_allclose(embedder.run(late)["cls"], wanted(own_bundle, x)["cls"], **CLOSE)


def test_what_an_output_does_not_offer(own_bundle: Path, old: FakeTensorRT) -> None:
    with open_plan(own_bundle, old) as embedder:
        output = embedder.run(pixels(), to="device")["cls"]
        assert repr(output) == "<GpuArray float32 [2, 128] on GPU 0>"
        assert len(output) == 2
        with pytest.raises(TypeError, match=r"copy it to the CPU with numpy\(\)"):
            np.asarray(output)
        with pytest.raises(BufferError, match="copy=True is not offered"):
            output.__dlpack__(copy=True)
        with pytest.raises(BufferError, match="stream 0 has two meanings"):
            output.__dlpack__(stream=0)
        with pytest.raises(BufferError, match=r"for device \(1, 0\) use numpy\(\)"):
            output.__dlpack__(dl_device=(1, 0))
        output.__dlpack__(stream=-1, dl_device=(2, 0), copy=False)
