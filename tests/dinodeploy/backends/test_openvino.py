"""OpenVINO: the graph's numbers, its precision said aloud, one compiled model a shape, and not too many."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.backends import OpenOptions, open_backend
from dinodeploy.backends import openvino as backends
from dinodeploy.backends import select as devices
from dinodeploy.backends.openvino import MODELS, OpenVinoBackend
from dinodeploy.bundle.bundle import locate, open_bundle
from dinodeploy.errors import BundleError, UnavailableError
from dinodeploy.parity.check import check_bundle
from tests.support.images.photographs import pixels
from tests.support.tiny_models import export_tiny

openvino = pytest.importorskip("openvino")

ROOT = Path(__file__).parents[3]
LIMIT = 5e-6  # relative Frobenius against ONNX Runtime in fp32; measured 9e-7


@pytest.fixture
def opened(tiny_bundle: Path) -> Iterator[OpenVinoBackend]:
    backend = OpenVinoBackend(tiny_bundle / "model.onnx", OpenOptions(threads=1))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("int8") / "b", recipe="int8").root


@pytest.fixture(scope="module")
def low_precision(
    tiny_bundle: Path, int8_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A bundle of each recipe."""
    bf16 = export_tiny(tmp_path_factory.mktemp("bf16") / "b", recipe="bf16").root
    return {"fp32": tiny_bundle, "bf16": bf16, "int8": int8_bundle}


def error(got: Any, wanted: Any) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_the_same_numbers_as_onnx_runtime(tiny_bundle: Path, opened: OpenVinoBackend) -> None:
    """Squares have a model of their own, the other sizes share one: both ways are compared."""
    other = open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=1)
    for height, width in ((96, 160), (64, 48), (96, 96), (48, 48)):
        x = pixels(["astronaut", "coffee"], height, width).numpy()
        got, wanted = opened.run(x), other.run(x)
        assert list(got) == list(wanted) == ["cls", "storage", "patch", "layer_1"]
        for name, values in wanted.items():
            assert got[name].dtype == np.float32
            assert error(got[name], values) <= LIMIT, name


def test_what_it_is(tiny_bundle: Path, opened: OpenVinoBackend) -> None:
    assert opened.runtime.startswith("openvino 20")
    assert opened.device.startswith("cpu: ")
    assert opened.metadata["dinodeploy.facts"] == open_bundle(tiny_bundle).manifest.facts()
    assert opened.takes(16, 4096)


def test_outputs_are_the_callers_own(opened: OpenVinoBackend) -> None:
    """A later run, through the same request, must not change what an earlier one gave."""
    x = pixels(["astronaut"], 48, 80).numpy()
    first = opened.run(x)["cls"]
    kept = first.copy()
    opened.run(-x)
    np.testing.assert_array_equal(first, kept)


SIGNALLED = """
import os, signal, sys
from dinodeploy.backends.openvino import OpenVinoBackend

first, second = (OpenVinoBackend(sys.argv[1]) for _ in range(2))
first.close()
del first
second.close()
del second
signal.signal(signal.SIGINT, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_after_two_engines_have_gone(tiny_bundle: Path) -> None:
    """In the order they came; the process died of it when each had a `Core` of its own."""
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALLED, str(tiny_bundle / "model.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ran.returncode, ran.stdout) == (0, "heard\n"), ran.stderr


# ---- precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "capabilities", "wanted"),
    [
        ("fp32", ["FP32", "BF16"], "f32"),  # OpenVINO's own choice there would be bf16
        ("fp16", ["FP32", "BF16", "FP16"], "f32"),  # its fp16 would be the residual stream's too
        ("bf16", ["FP32", "BF16"], "f32"),  # the types of the graph count, and keep the residual stream
        ("int8", ["FP32", "BF16", "INT8"], "bf16"),
        ("fp8", ["FP32", "BF16"], "f32"),
    ],
)
def test_precision_follows_the_recipe(recipe: str, capabilities: list[str], wanted: str) -> None:
    assert backends.precision_for(recipe, capabilities) == wanted


def test_the_execution_graph_has_the_types_of_the_recipe(low_precision: dict[str, Path]) -> None:
    """bf16: products and attention where the CPU can; residual stream, norms and convolution stay fp32."""
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    backend = OpenVinoBackend(low_precision["bf16"] / "model.onnx", OpenOptions(threads=1))
    run(backend, (64, 64))
    (compiled,) = backend._compiled.values()
    found = [node.get_rt_info() for node in compiled.compiled.get_runtime_model().get_ops()]
    kinds = [(str(info["layerType"].value), str(info["runtimePrecision"].value)) for info in found]
    products = [precision for kind, precision in kinds if kind == "FullyConnected"]
    assert set(products) == {"bf16"}
    assert len(products) == 18, "q, k, v, out, fc1 and fc2 of three blocks"
    assert {precision for kind, precision in kinds if kind in ("MVN", "Eltwise", "Convolution")} == {"f32"}


def test_fp32_is_asked_for(opened: OpenVinoBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    compile_model = opened._core.compile_model

    def record(model: Any, device: str, settings: dict[str, Any]) -> Any:
        asked.append(settings)
        return compile_model(model, device, settings)

    opened._core = SimpleNamespace(read_model=opened._core.read_model, compile_model=record)
    opened.run(np.zeros((1, 3, 32, 48), np.float32))
    assert asked[0]["INFERENCE_PRECISION_HINT"] == "f32"
    assert asked[0]["INFERENCE_NUM_THREADS"] == 1


def test_a_bf16_machine_is_named_in_the_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    monkeypatch.setattr(backends, "precision_for", lambda recipe, capabilities: "bf16")
    backend = OpenVinoBackend(tiny_bundle / "model.onnx")
    assert backend.runtime.endswith(" bf16")


# ---- compiled models ---------------------------------------------------------------------------------


def run(backend: OpenVinoBackend, *sizes: tuple[int, int], batch: int = 1) -> list[tuple[int, ...]]:
    """Run each size; the shapes that have a model of their own afterwards."""
    for height, width in sizes:
        backend.run(np.zeros((batch, 3, height, width), np.float32))
    return [shape[2:] for shape, _ in backend._compiled]


def test_squares_and_the_own_size_have_a_model_of_their_own(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path / "b", imgsz=(32, 48)).root
    backend = OpenVinoBackend(bundle / "model.onnx", OpenOptions(threads=1))
    assert run(backend, (64, 64), (32, 48)) == [(64, 64), (32, 48)]
    assert backend._any is None, "nothing is compiled that nobody needs"
    assert run(backend, (48, 32)) == [(64, 64), (32, 48)]
    assert backend._any is not None


def test_the_oldest_model_makes_room(opened: OpenVinoBackend) -> None:
    sizes = [(16 * n, 16 * n) for n in range(1, MODELS + 1)]
    assert run(opened, *sizes, sizes[0]) == [*sizes[1:], sizes[0]]
    assert run(opened, (96, 96)) == [*sizes[2:], sizes[0], (96, 96)]


def test_large_weights_have_one_model(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "LARGE", 1)
    backend = OpenVinoBackend(tiny_bundle / "model.onnx")
    assert run(backend, (32, 32), (48, 48)) == []
    assert backend._any is not None


def test_the_judge_sees_both_kinds(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three golden sizes: the bundle's own has a model of its own, the other two share one."""
    kinds: list[bool] = []
    is_fixed = OpenVinoBackend.is_fixed

    def watch(self: OpenVinoBackend, shape: tuple[int, ...]) -> bool:
        kinds.append(is_fixed(self, shape))
        return kinds[-1]

    monkeypatch.setattr(OpenVinoBackend, "is_fixed", watch)
    _, receipt, verdict = check_bundle(tiny_bundle, device="openvino")
    assert verdict.passed
    assert receipt.runtime.startswith("openvino ")
    assert set(kinds) == {False, True}


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "int8"])
def test_an_embedding_depends_neither_on_its_batch_nor_on_what_ran_before(
    recipe: str, size: tuple[int, int], low_precision: dict[str, Path]
) -> None:
    """Bit for bit, in latency and in throughput mode, with one thread and with two."""
    graph = low_precision[recipe] / "model.onnx"
    x = pixels(["astronaut", "chelsea", "coffee", "rocket", "china"], *size).numpy()
    wanted = open_backend("openvino", graph, threads=2).run(x)["cls"]
    for options in ({"threads": 1}, {"threads": 2}, {"threads": 2, "hint": "throughput"}):
        backend = open_backend("openvino", graph, **options)
        for other in ((32, 32), (48, 16), (80, 80)):
            run(backend, other, batch=2)  # type: ignore[arg-type]
        for start, stop in ((0, 1), (1, 3), (2, 5), (0, 5)):
            got = backend.run(x[start:stop])["cls"]
            if recipe == "fp32" and size == (64, 96):  # kernels of the shared model: another order of sums
                assert error(got, wanted[start:stop]) <= 1e-6
            else:
                np.testing.assert_array_equal(got, wanted[start:stop])


def test_several_threads_at_once(opened: OpenVinoBackend) -> None:
    batches = [pixels([name], 48, 80).numpy() for name in ("astronaut", "coffee", "rocket", "china")] * 6
    wanted = [opened.run(x)["patch"] for x in batches]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda x: opened.run(x)["patch"], batches))
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- errors and choice -------------------------------------------------------------------------------


def test_no_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<nothing/>")
    with pytest.raises(BundleError, match="OpenVINO cannot load it: ") as caught:
        open_backend("openvino", tmp_path / "m.xml")
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)


def test_without_the_package(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[openvino\]'"):
        Embedder.open(tiny_bundle, device="openvino")


def engines(bundle: Path, device: str) -> list[str]:
    opened, file = locate(bundle)
    return [c.backend for c in devices.candidates(opened, device, file=file)]


def test_the_rule_on_a_cpu(
    tiny_bundle: Path, int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime, but for recipes whose instructions only OpenVINO uses, and only where it is installed."""
    monkeypatch.setattr(devices, "cpu_flags", lambda: ("avx2",))
    assert engines(int8_bundle, "cpu") == ["onnxruntime"]
    assert engines(int8_bundle, "openvino") == ["openvino"]
    monkeypatch.setattr(devices, "cpu_flags", lambda: ("avx2", "avx512_vnni", "avx512_bf16"))
    assert set(engines(tiny_bundle, "cpu")) == {"onnxruntime"}
    assert engines(int8_bundle, "cpu") == ["openvino", "onnxruntime"]
    assert engines(int8_bundle, "auto")[-2:] == ["openvino", "onnxruntime"]
    assert engines(int8_bundle, "onnxruntime") == ["onnxruntime"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engines(int8_bundle, "cpu") == ["onnxruntime"]
