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
from dinodeploy.backends.openvino import IN_A_ROW, SHAPES, OpenVinoBackend
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


def error(got: Any, wanted: Any) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_the_same_numbers_as_onnx_runtime(tiny_bundle: Path, opened: OpenVinoBackend) -> None:
    """Off-square sizes, one more than have a model of their own: both ways are compared."""
    other = open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=1)
    for height, width in ((96, 160), (64, 48), (16, 208)):
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
        ("bf16", ["FP32", "BF16"], "bf16"),
        ("bf16", ["FP32"], "f32"),
        ("int8", ["FP32", "BF16", "INT8"], "bf16"),
        ("fp8", ["FP32", "BF16"], "f32"),
    ],
)
def test_precision_follows_the_recipe(recipe: str, capabilities: list[str], wanted: str) -> None:
    assert backends.precision_for(recipe, capabilities) == wanted


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
    return [shape[2:] for shape in backend._compiled]


def test_the_first_shapes_have_a_model_of_their_own(opened: OpenVinoBackend) -> None:
    assert SHAPES == 2
    assert run(opened, (32, 32), (32, 48)) == [(32, 32), (32, 48)]
    assert opened._any is None, "nothing is compiled that nobody needs"
    assert run(opened, (48, 48)) == [(32, 32), (32, 48)]
    assert opened._any is not None


def test_a_shape_that_comes_again_and_again_takes_the_place_of_the_oldest(opened: OpenVinoBackend) -> None:
    run(opened, (32, 32), (32, 48), (32, 32))  # used last: 32x32
    assert (48, 48) not in run(opened, *[(48, 48)] * IN_A_ROW)
    assert run(opened, (48, 48)) == [(32, 32), (48, 48)]
    assert run(opened, *[(16, 48), (16, 32)] * IN_A_ROW) == [(32, 32), (48, 48)], "taking turns earns nothing"


def test_large_weights_are_kept_once_or_twice(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "LARGE", 1)
    assert OpenVinoBackend(tiny_bundle / "model.onnx")._room == 1


def test_the_judge_sees_both_kinds(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three golden sizes: two with a model of their own, and the one that takes any."""
    kinds: list[bool] = []
    compiled_for = OpenVinoBackend.compiled_for

    def watch(self: OpenVinoBackend, shape: tuple[int, ...]) -> Any:
        found = compiled_for(self, shape)
        kinds.append(found is self._any)
        return found

    monkeypatch.setattr(OpenVinoBackend, "compiled_for", watch)
    _, receipt, verdict = check_bundle(tiny_bundle, device="openvino")
    assert verdict.passed
    assert receipt.runtime.startswith("openvino ")
    assert set(kinds) == {False, True}


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_an_embedding_does_not_depend_on_its_batch(recipe: str, tiny_bundle: Path, int8_bundle: Path) -> None:
    """int8 has one compiled model: two would differ by 1e-2."""
    root = tiny_bundle if recipe == "fp32" else int8_bundle
    backend = open_backend("openvino", root / "model.onnx", threads=1)
    x = pixels(["astronaut", "chelsea", "coffee", "rocket", "china"], 64, 96).numpy()
    whole = backend.run(x)["cls"]
    for start, stop in ((0, 1), (1, 3), (2, 5)):
        assert error(backend.run(x[start:stop])["cls"], whole[start:stop]) <= (
            1e-6 if recipe == "fp32" else 0
        )


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
