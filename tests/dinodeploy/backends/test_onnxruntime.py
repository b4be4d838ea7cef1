"""The ONNX Runtime backends, and the table that they stand in.

The CUDA provider cannot run here. What is proven without: that a provider which is absent, did not start, or
did not run the nodes that matter is refused, on ONNX Runtime's own profile of a real run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dinodeploy.backends import BACKENDS, OpenOptions, open_backend
from dinodeploy.backends import onnxruntime as backends
from dinodeploy.backends.onnxruntime import PROVIDERS, OnnxRuntimeBackend, RanNode, astray, open_cuda
from dinodeploy.errors import BundleError, UnavailableError
from tests.dinodeploy.backends.gpu_machine import DEVICE


def test_outputs_come_by_name(tiny_bundle: Path) -> None:
    backend = open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=1)
    outputs = backend.run(np.zeros((1, 3, 32, 48), np.float32))
    assert list(outputs) == ["cls", "storage", "patch", "layer_1"]
    assert backend.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert backend.device.startswith("cpu: ")
    assert "dinodeploy.facts" in backend.metadata
    assert backend.takes(16, 4096)
    backend.close()


def test_large_weights_stay_in_their_file(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers without folding; two shallow blocks of a 7B hold 0.12 GB then, and 1.4 GB with it."""
    x = np.random.default_rng(0).standard_normal((2, 3, 48, 80), dtype=np.float32)
    wanted = open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=1).run(x)
    session, given = onnxruntime.InferenceSession, []

    def watch(path: str, options: Any, **more: Any) -> Any:
        given.append((options.enable_cpu_mem_arena, more["disabled_optimizers"]))
        return session(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watch)
    monkeypatch.setattr(backends, "LARGE", 1)
    got = open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=1).run(x)
    monkeypatch.setattr(backends, "LARGE", 1 << 30)
    open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=1)
    assert given == [(False, ["ConstantFolding"]), (True, [])]
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("hint", "threads", "parts"),
    [("latency", 2, [3, 2, 2]), ("throughput", 2, [1] * 7), ("latency", 1, [1] * 7)],
)
def test_a_large_batch_is_run_in_parts(
    hint: str, threads: int, parts: list[int], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what all threads take together, or one alone; how they are cut: test_parallel.py."""
    monkeypatch.setattr(backends, "PIXELS_AT_ONCE", 3 * 32 * 48)
    monkeypatch.setattr(backends, "PIXELS_PER_RUN", 32 * 48)
    backend = open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=threads, hint=hint)
    assert isinstance(backend, OnnxRuntimeBackend)
    session = backend._session
    sizes: list[int] = []

    class Watched:
        def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
            sizes.extend(len(array) for array in inputs.values())
            return session.run(names, inputs)

    backend._session = Watched()
    outputs = backend.run(np.zeros((7, 3, 32, 48), np.float32))
    assert sizes == parts
    assert all(len(values) == 7 for values in outputs.values())


def test_no_graph_no_session(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(BundleError, match="cannot load it") as caught:
        open_backend("onnxruntime", tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_a_missing_runtime_says_how_to_get_it(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match="pip install onnxruntime"):
        open_backend("onnxruntime", tiny_bundle / "model.onnx")


def test_an_unknown_backend_names_the_known_ones(tiny_bundle: Path) -> None:
    with pytest.raises(UnavailableError, match=f"'abacus'; this version has: {', '.join(BACKENDS)}"):
        open_backend("abacus", tiny_bundle / "model.onnx")


# ---- the provider asked for is the one in use ------------------------------------------------------


def test_a_build_without_the_provider(tiny_bundle: Path, gpu: None) -> None:
    with pytest.raises(
        UnavailableError, match=r"has no CUDAExecutionProvider, only .*pip install onnxruntime-gpu"
    ):
        open_backend("onnxruntime_cuda", tiny_bundle / "model.onnx")


@pytest.mark.usefixtures("says_it_has_cuda")
def test_libraries_of_pip_are_loaded_before_a_gpu_session(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without `preload_dlls` the CUDA provider does not start from pip's packages alone; CPUs need none."""
    order: list[str] = []

    def preload(*, cuda: bool = True, cudnn: bool = True, directory: str | None = None) -> None:
        order.append(f"preload {directory!r}")
        print("Failed to load libcudnn")

    session = onnxruntime.InferenceSession

    def opened(path: str, options: Any, providers: list[Any], **more: Any) -> Any:
        order.append("session")
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with pytest.raises(UnavailableError, match="could not start CUDAExecutionProvider"):
        open_backend("onnxruntime_cuda", tiny_bundle / "model.onnx")
    assert order == ["preload ''", "session"]
    assert capfd.readouterr().out == ""
    open_backend("onnxruntime", tiny_bundle / "model.onnx").close()
    assert order == ["preload ''", "session", "session"]


def test_without_a_gpu_that_is_said_first(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinodeploy.hardware import devices as machine

    monkeypatch.setattr(machine, "DRIVER_LIBRARY", "libnothing_of_that_name.so")
    with pytest.raises(UnavailableError, match="no NVIDIA driver here"):
        open_backend("onnxruntime_cuda", tiny_bundle / "model.onnx")


@pytest.fixture
def says_it_has_cuda(monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    """A build that lists the CUDA provider, as onnxruntime-gpu does where CUDA's libraries are missing."""
    names = ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)


@pytest.mark.usefixtures("says_it_has_cuda")
def test_a_provider_that_does_not_start_is_no_cpu(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime falls back to the CPU; we do not."""
    session = onnxruntime.InferenceSession
    given: list[Any] = []

    def falls_back(path: str, options: Any, providers: list[Any], **more: Any) -> Any:
        given.append((providers, more))
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(UnavailableError, match="could not start CUDAExecutionProvider and took CPUExecution"):
        open_backend("onnxruntime_cuda", tiny_bundle / "model.onnx")
    (asked,) = given
    assert asked[0] == [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})]
    assert asked[1] == {"enable_fallback": 0, "disabled_optimizers": []}, (
        "else it prints on stdout and takes the CPU, at any later run too"
    )
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("says_it_has_cuda")
def test_a_provider_that_raises_is_one_line(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA failure 35: driver version is insufficient\nmore")

    monkeypatch.setattr(onnxruntime, "InferenceSession", raises)
    with pytest.raises(
        UnavailableError, match=r"cannot load it: CUDA failure 35: driver version is insufficient$"
    ):
        open_backend("onnxruntime_cuda", tiny_bundle / "model.onnx")


def test_nodes_that_went_elsewhere_are_found(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: None
) -> None:
    """A session whose first provider is the right one, while every product runs on the CPU."""
    session = onnxruntime.InferenceSession

    class Pretender(session):  # type: ignore[misc, valid-type]
        def __init__(self, path: str, options: Any, **_: Any) -> None:
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Pretender)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(UnavailableError) as caught:
        open_backend("onnxruntime_cuda", tiny_bundle / "model.onnx")
    assert "CUDAExecutionProvider leaves " in str(caught.value)
    assert " to CPUExecutionProvider; use --device cpu" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_provider_that_runs_the_work_is_taken(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: None, tmp_path: Path
) -> None:
    """The same way with the CPU as the provider asked for: it opens, and leaves no profile behind."""
    monkeypatch.setattr(backends.Provider, "on_gpu", property(lambda self: True))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    backend = OnnxRuntimeBackend(tiny_bundle / "model.onnx", PROVIDERS["cpu"], DEVICE)
    assert backend.device == DEVICE
    assert backend.run(np.zeros((1, 3, 32, 48), np.float32))["cls"].shape == (1, 128)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("dinodeploy")]
    backend.close()


def test_shape_arithmetic_may_stay_on_the_cpu() -> None:
    nodes = [
        RanNode("a", "Gather", "CPUExecutionProvider"),
        RanNode("b", "MatMul", "CUDAExecutionProvider"),
        RanNode("c", "Softmax", "CPUExecutionProvider"),
    ]
    assert astray(nodes, "CUDAExecutionProvider") == [nodes[2]]


def test_a_gpu_is_named_in_the_receipt(gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(backends, "OnnxRuntimeBackend", lambda *given: opened.append(given))
    open_cuda(tmp_path / "model.onnx", OpenOptions())
    assert opened[0][2] == DEVICE
