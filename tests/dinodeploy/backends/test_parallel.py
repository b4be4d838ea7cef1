"""CPU throughput mode: one run per core gives the same numbers as all threads on one run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder, MisuseError
from dinodeploy.backends import OpenOptions, open_backend, parallel
from dinodeploy.backends import onnxruntime as backends
from dinodeploy.backends.parallel import in_parts, parallel_runs_for
from tests.support.images.photographs import pixels
from tests.support.tiny_models import export_passing, export_tiny, tiny_convnext

SIZE = (96, 160)  # off-square


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> dict[str, Path]:
    from dinov3_ref.checkpoints import random_checkpoint

    folder = tmp_path_factory.mktemp("parallel")
    return {
        "fp32": tiny_bundle,
        "int8": export_tiny(folder / "int8", recipe="int8").root,
        "bf16": export_tiny(folder / "bf16", "swiglu", recipe="bf16").root,
        "convnext": export_passing(random_checkpoint(tiny_convnext(), 0), folder / "convnext").root,
    }


@pytest.mark.parametrize(
    ("device", "kind", "limit"),
    [
        ("onnxruntime", "fp32", 0.0),
        ("onnxruntime", "int8", 0.0),
        ("onnxruntime", "bf16", 0.0),
        ("onnxruntime", "convnext", 0.0),
        ("openvino", "fp32", 5e-6),  # a model a shape: batches round differently, by 4e-7
        ("openvino", "int8", 0.0),
        ("openvino", "bf16", 0.0),
    ],
)
def test_the_same_numbers(device: str, kind: str, limit: float, bundles: dict[str, Path]) -> None:
    """A store must not depend on which images ran together in a batch."""
    if device == "openvino":
        pytest.importorskip("openvino")
    x = pixels(["astronaut", "coffee", "chelsea", "rocket", "china"], *SIZE).numpy()
    with (
        Embedder.open(bundles[kind], device=device, threads=2) as alone,
        Embedder.open(bundles[kind], device=device, threads=3, hint="throughput") as beside,
        ThreadPoolExecutor(3) as pool,
    ):
        assert (alone.backend.parallel_runs, beside.backend.parallel_runs) == (1, 3)
        assert "3 batches in parallel" in beside.choice
        wanted = alone.run(x)
        for got in pool.map(beside.run, [x] * 6):
            assert list(got) == list(wanted)
            for name, values in wanted.items():
                error = np.linalg.norm(got[name] - values) / np.linalg.norm(values)
                assert error <= limit, f"{name}: {error:.1e}"


def test_cores_are_counted_where_no_number_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 6)
    assert parallel_runs_for(OpenOptions(hint="throughput")) == 6
    assert parallel_runs_for(OpenOptions(hint="throughput", threads=4)) == 4
    assert parallel_runs_for(OpenOptions(threads=4)) == 1


def test_an_unknown_hint_names_the_known_ones(tiny_bundle: Path) -> None:
    with pytest.raises(MisuseError, match="hint is 'fast'; wanted latency or throughput"):
        open_backend("onnxruntime", tiny_bundle / "model.onnx", hint="fast")


def test_large_weights_are_widened_in_one_run_at_a_time(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run would hold its own fp32 copy."""
    monkeypatch.setattr(backends, "LARGE", 1)
    assert (
        open_backend("onnxruntime", tiny_bundle / "model.onnx", threads=2, hint="throughput").parallel_runs
        == 1
    )


def test_a_process_held_to_a_part_of_the_machine_uses_that(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself ONNX Runtime counts the machine's cores, the host's in a container with a quota."""
    import onnxruntime

    session, given = onnxruntime.InferenceSession, []

    def watch(path: str, options: onnxruntime.SessionOptions, **more: object) -> object:
        given.append(options.intra_op_num_threads)
        return session(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watch)
    for held in (True, False):
        monkeypatch.setattr(backends, "restricted", lambda held=held: held)
        monkeypatch.setattr(backends, "cores", lambda: 1)
        open_backend("onnxruntime", tiny_bundle / "model.onnx")
    assert given == [1, 0]


@pytest.mark.parametrize(
    ("at_once", "parts"), [(None, [7]), (8 * 32 * 48, [7]), (3 * 32 * 48, [3, 2, 2]), (1, [1] * 7)]
)
def test_parts_are_even(at_once: int | None, parts: list[int]) -> None:
    """The same images come out, in order; one that is larger than a part runs alone."""
    x = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1) * np.ones((1, 3, 32, 48), np.float32)
    sizes: list[int] = []

    def run(part: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(part))
        return [part[:, 0, 0, 0], part.sum(axis=(2, 3))]

    first, second = in_parts(run, x, at_once)
    assert sizes == parts
    np.testing.assert_array_equal(first, np.arange(7))
    np.testing.assert_array_equal(second, x.sum(axis=(2, 3)))


def test_parts_of_bytes() -> None:
    """[B,H,W,3]: the pixels of an image are H x W, whatever lies last."""
    x = np.zeros((7, 8, 16, 3), np.uint8)
    sizes: list[int] = []

    def run(part: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(part))
        return [part]

    (joined,) = in_parts(run, x, 3 * 8 * 16)
    assert sizes == [3, 2, 2]
    assert joined.shape == x.shape
