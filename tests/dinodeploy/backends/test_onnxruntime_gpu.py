"""GPU arrays with ONNX Runtime's CUDA provider.

It cannot run here. Its IOBinding does, on a session of the CPU: the binding's device "cuda" is mapped to the
CPU, and the fake GPU's memory is the CPU's. What is proven: names, order, addresses and lifetimes.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_inference_collection as collection

from dinodeploy import MisuseError, UnavailableError
from dinodeploy.backends import onnxruntime as backends
from dinodeploy.backends.gpu_arrays import GpuPixels
from dinodeploy.backends.onnxruntime import PROVIDERS, OnnxRuntimeBackend
from tests.dinodeploy.backends.fake_cuda import FakeCuda
from tests.dinodeploy.backends.gpu_library import CLOSE, Library, pixels, wanted
from tests.dinodeploy.backends.gpu_machine import DEVICE, pretend_tensorrt


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, gpu: None) -> FakeCuda:
    make = collection.OrtDevice.make
    bound: list[str] = []

    def on_the_cpu(device: str, number: int, *more: Any) -> Any:
        bound.append(device)
        return make("cpu", number, *more)

    monkeypatch.setattr(backends.Provider, "on_gpu", property(lambda self: True))
    monkeypatch.setattr(collection.OrtDevice, "make", staticmethod(on_the_cpu))
    fake = pretend_tensorrt(monkeypatch).cuda
    fake.bound = bound  # type: ignore[attr-defined]
    return fake


def opened(bundle: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(bundle / "model.onnx", PROVIDERS["cpu"], DEVICE)


@pytest.mark.parametrize("protocol", ["dlpack", "versioned", "interface"])
def test_gpu_arrays_in_and_out(protocol: str, tiny_bundle: Path, cuda: FakeCuda) -> None:
    library, x = Library(cuda), pixels()
    right, backend = wanted(tiny_bundle, x), opened(tiny_bundle)
    assert backend.gpu is not None
    for stream in (None, int(library.stream), 0):
        cuda.bound.clear()  # type: ignore[attr-defined]
        array = library.array(x, protocol)
        borrowed = backend.gpu.borrow(array, stream)
        assert isinstance(borrowed, GpuPixels)
        outputs = backend.gpu.run_on_gpu(borrowed, ("patch", "cls"))
        library.overwrite(array)
        assert cuda.bound == ["cuda"] * 3  # type: ignore[attr-defined]
        assert list(outputs) == ["patch", "cls"]
        for name, value in outputs.items():
            assert value.shape == right[name].shape
            np.testing.assert_allclose(library.read(library.share(value))(), right[name], **CLOSE)
            np.testing.assert_allclose(value.numpy(), right[name], **CLOSE)
        got = backend.run(backend.gpu.borrow(library.array(x, protocol)), ("cls",))
        np.testing.assert_allclose(got["cls"], right["cls"], **CLOSE)
        got = backend.run(backend.gpu.borrow(library.array(x, protocol)))
        assert list(got) == list(right)
    on_host = backend.gpu.run_on_gpu(x)
    np.testing.assert_allclose(on_host["cls"].numpy(), right["cls"], **CLOSE)
    backend.close()
    assert cuda.alive["stream"] == 1, "the library's"
    np.testing.assert_allclose(on_host["storage"].numpy(), right["storage"], **CLOSE)
    with pytest.raises(MisuseError, match="has been closed"):
        backend.gpu.run_on_gpu(x)


def test_memory_is_used_again_when_nobody_can_still_read_it(tiny_bundle: Path, cuda: FakeCuda) -> None:
    """ONNX Runtime gives the memory of a dead value to the next one; a reader's work may still be queued."""
    library, backend = Library(cuda), opened(tiny_bundle)
    assert backend.gpu is not None
    queued = []
    for turn in range(4):
        output = backend.gpu.run_on_gpu(pixels(turn), ("cls",))["cls"]
        queued.append(library.read(library.share(output)))
        del output
        gc.collect()
    for turn, values in enumerate(queued):
        np.testing.assert_allclose(values(), wanted(tiny_bundle, pixels(turn))["cls"], **CLOSE)
    backend.close()


def test_without_the_bindings(tiny_bundle: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, array = opened(tiny_bundle), Library(cuda).array(pixels())
    assert backend.gpu is not None
    for module in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (lambda: backend.gpu.borrow(array), lambda: backend.gpu.run_on_gpu(pixels())):
        with pytest.raises(
            UnavailableError, match=r"GPU arrays need cuda-bindings .*pip install cuda-bindings"
        ):
            call()
    backend.run(pixels())
    backend.close()
