"""What the fake CUDA has, the real bindings have; and what the real ones do without a GPU is one line."""

from __future__ import annotations

from typing import Any

import pytest

from dinodeploy.backends.tensorrt.cuda import FIXES, OLD_DRIVER, OTHERWISE, Cuda
from dinodeploy.errors import UnavailableError
from tests.dinodeploy.backends.fake_cuda import Attribute, Error, FakeCuda, Kind, Mode


@pytest.fixture
def bindings() -> Any:
    return pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")


def test_the_fake_has_the_names_of_the_bindings(bindings: Any) -> None:
    for name in vars(FakeCuda):
        assert not name.startswith("cuda") or hasattr(bindings, name), name
    for ours, theirs in (
        (Error, bindings.cudaError_t),
        (Kind, bindings.cudaMemcpyKind),
        (Mode, bindings.cudaStreamCaptureMode),
        (Attribute, bindings.cudaDeviceAttr),
    ):
        assert all(hasattr(theirs, member.name) for member in ours)
    assert bindings.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
    assert all(hasattr(bindings.cudaError_t, name) for name in (*FIXES, OLD_DRIVER))
    assert int(bindings.cudaStream_t(1234)) == 1234, "TensorRT gets streams as integers"


def test_the_real_bindings_without_a_gpu(bindings: Any) -> None:
    error, count = bindings.cudaGetDeviceCount()
    if error == bindings.cudaError_t.cudaSuccess and count:
        pytest.skip("there is a GPU here")
    with pytest.raises(
        UnavailableError, match=r"the GPU failed at cudaMalloc: .* \(cudaError\w+\); "
    ) as caught:
        Cuda(bindings).device_memory(16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [Error.cudaErrorNoDevice, Error.cudaErrorIllegalAddress])
def test_an_error_code_says_where_what_and_what_to_do(error: Error) -> None:
    fake = FakeCuda()
    fake.fail["cudaMalloc", 1] = error
    with pytest.raises(UnavailableError) as caught:
        Cuda(fake).device_memory(16)
    fix = FIXES.get(error.name, OTHERWISE)
    wanted = f"the GPU failed at cudaMalloc: something went wrong on the GPU ({error.name}); {fix}"
    assert str(caught.value) == wanted
    assert fake.calls[-1] == "cudaGetLastError", "else the next call would report it again"


def test_bindings_newer_than_the_driver_name_the_version_to_install() -> None:
    fake = FakeCuda()
    fake.driver = 12060  # JetPack 6's
    fake.fail["cudaMalloc", 1] = Error.cudaErrorInsufficientDriver
    with pytest.raises(UnavailableError, match=r"CUDA 12\.6: .*pip install 'cuda-python==12\.6\.\*'\)$"):
        Cuda(fake).device_memory(16)


def test_no_bytes_have_an_address_too() -> None:
    cuda = Cuda(FakeCuda())
    assert cuda.device_memory(0)
    assert cuda.pinned_memory(0)


def test_a_capture_that_fails_leaves_no_graph() -> None:
    fake = FakeCuda()
    cuda = Cuda(fake)
    stream = cuda.new_stream()
    kept: list[Any] = []
    with pytest.raises(ZeroDivisionError), cuda.capture(stream, kept):
        _ = 1 / 0
    assert kept == []
    assert fake.alive["graph"] == fake.alive["executable"] == 0
    assert stream.captured is None
