"""Plans are run right, in the right order, and leave nothing behind: against fakes of three versions.

The fake GPU runs late and out of step, so a missing event, an address too few or memory let go too early
gives NaN or an assertion instead of luck.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dinodeploy.backends import open_backend
from dinodeploy.backends.tensorrt import stream as streams
from dinodeploy.backends.tensorrt.backend import TensorRTBackend
from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError, OutsideProfileError, UnavailableError
from tests.dinodeploy.backends.fake_cuda import Error
from tests.dinodeploy.backends.fake_tensorrt import FakeTensorRT, session
from tests.dinodeploy.backends.gpu_machine import DEVICE, Plan, add_plan, pretend_tensorrt

SHAPES = ((1, 3, 48, 80), (3, 3, 80, 48), (2, 3, 320, 32))
SAME = 1e-6  # the same arithmetic, cut up otherwise; measured 3e-7


@pytest.fixture(params=["10.3", "11.4", "rtx"])
def module(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, gpu: None
) -> Iterator[FakeTensorRT]:
    yield pretend_tensorrt(monkeypatch, request.param)
    gc.collect()


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch, gpu: None) -> FakeTensorRT:
    """The oldest, where versions make no difference."""
    return pretend_tensorrt(monkeypatch, "10.3")


def open_plan(root: Path, module: FakeTensorRT, **changes: Any) -> TensorRTBackend:
    plan = add_plan(root, module, **changes)
    backend = open_backend(module.__name__, plan.path, build=plan.facts)
    assert isinstance(backend, TensorRTBackend)
    return backend


def pixels(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def wanted(root: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    reference = session(str(root / "model.onnx"))
    names = [output.name for output in reference.get_outputs()]
    return dict(zip(names, reference.run(names, {"pixels": x}), strict=True))


def assert_right(root: Path, x: np.ndarray, got: dict[str, np.ndarray]) -> None:
    right = wanted(root, x)
    assert list(got) == list(right)
    for name, value in right.items():
        assert got[name].shape == value.shape
        assert np.linalg.norm(got[name] - value) <= SAME * np.linalg.norm(value), name


# ---- what comes out --------------------------------------------------------------------------------


def test_every_shape_and_every_time(own_bundle: Path, module: FakeTensorRT) -> None:
    """Each shape four times: directly, directly in a context of its own, and twice as a graph."""
    backend = open_plan(own_bundle, module)
    assert backend.runtime == f"{module.__name__} {module.__version__}"
    assert backend.device == DEVICE
    for turn in range(4):
        for shape in SHAPES:
            x = pixels(shape, seed=turn)
            assert_right(own_bundle, x, backend.run(x))
    backend.close()
    assert module.cuda.leaked == {}
    assert module.alive == 0


def test_bytes(own_bundle: Path, module: FakeTensorRT) -> None:
    """uint8 [B,H,W,3] reaches the GPU as it is: a quarter of what float32 [B,3,H,W] takes."""
    ir = pytest.importorskip("onnx_ir", reason="comes with torch's exporter")
    from exporters.graph.files import read_onnx
    from exporters.graph.take_bytes import take_bytes

    graph = read_onnx(own_bundle / "model.onnx")
    take_bytes(graph)
    onnx.save(ir.to_proto(graph), own_bundle / "model.onnx")
    backend = open_plan(own_bundle, module)
    assert backend.takes(320, 32)
    assert not backend.takes(32, 336)
    for turn in range(3):
        for batch, height, width in ((1, 48, 80), (3, 80, 48), (2, 320, 32)):
            x = np.random.default_rng(turn).integers(0, 256, (batch, height, width, 3), np.uint8)
            module.cuda.copied.clear()
            assert_right(own_bundle, x, backend.run(x))
            assert module.cuda.copied["cudaMemcpyHostToDevice"] == batch * height * width * 3
    backend.close()


def test_outputs_are_the_callers(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    x = pixels(SHAPES[0])
    first = backend.run(x)
    kept = {name: value.copy() for name, value in first.items()}
    backend.run(pixels(SHAPES[0], seed=1))
    backend.close()
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)


def test_only_outputs_that_are_asked_for_are_copied(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    x = pixels(SHAPES[0])
    right = wanted(own_bundle, x)
    for _ in range(3):  # directly, in a context of its own, as a graph
        old.cuda.copied.clear()
        got = backend.run(x, ("layer_1", "cls"))
        assert list(got) == ["layer_1", "cls"]
        for name in got:
            np.testing.assert_allclose(got[name], right[name], rtol=1e-4, atol=1e-5)
        assert old.cuda.copied["cudaMemcpyDeviceToHost"] == sum(got[name].nbytes for name in got)
    with Embedder.open(own_bundle, device="tensorrt", outputs=("cls",)) as embedder:
        old.cuda.copied.clear()
        assert list(embedder.run(x)) == ["cls"]
        assert old.cuda.copied["cudaMemcpyDeviceToHost"] == right["cls"].nbytes
    backend.close()


def test_a_batch_is_cut_up_and_filled_up(own_bundle: Path, old: FakeTensorRT) -> None:
    profile = ProfileFacts((3, 32, 32), (3, 64, 64), (4, 96, 96))
    backend = open_plan(own_bundle, old, profiles=(profile,))
    for batch in (1, 4, 9):  # filled up to 3; as it is; 3 + 3 + 3
        x = pixels((batch, 3, 48, 64))
        assert_right(own_bundle, x, backend.run(x))
    batches = [arguments[1][0] for arguments in old.called("set_input_shape")]
    assert batches == [3, 4, 3]  # the 9's other parts replay a graph
    backend.close()


def test_sizes_outside_every_profile(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    assert backend.takes(320, 320)
    assert not backend.takes(336, 320)
    with pytest.raises(OutsideProfileError) as caught:
        backend.run(pixels((1, 3, 336, 320)))
    assert str(caught.value) == (
        "input of 336x320 px is outside what model.plan was built for, batch 1 to 4, 32x32 to 320x320 px or "
        "batch 1 to 16, 32x32 to 96x96 px; build it wider: "
        f"dinodeploy build {own_bundle} --target tensorrt --batch 1:2:4 --imgsz 32x32:256x256:336x320 "
        "--overwrite"
    )
    backend.close()


def test_the_profile_tuned_nearest_is_used(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    for shape in ((1, 3, 256, 256), (8, 3, 64, 64), (5, 3, 96, 96)):
        backend.run(pixels(shape))
    # a context starts with profile 0; the last one fits profile 1 without being cut up
    assert [index for index, _ in old.called("set_optimization_profile_async")] == [1]
    backend.close()


def test_threads_share_an_engine(own_bundle: Path, module: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, module)
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for turn in range(6):
                x = pixels(SHAPES[(index + turn) % len(SHAPES)], seed=100 * index + turn)
                assert_right(own_bundle, x, backend.run(x))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    backend.close()
    assert module.cuda.leaked == {}


# ---- how it comes about ----------------------------------------------------------------------------


def test_shapes_then_addresses_then_execution(own_bundle: Path, module: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, module)
    module.calls.clear()
    module.cuda.calls.clear()
    backend.run(pixels(SHAPES[0]))
    order = [name for name, _ in module.calls]
    assert order[-1] == "execute_async_v3"
    assert (
        order.index("set_input_shape") < order.index("get_tensor_shape") < order.index("set_tensor_address")
    )
    assert {name for name, _ in module.called("set_tensor_address")} == {
        "pixels",
        "cls",
        "storage",
        "patch",
        "layer_1",
    }
    work = [name for name in module.cuda.calls if name not in ("cudaMalloc", "cudaHostAlloc")]
    assert work[0] == "cudaGetDevice"
    copies = ["cudaMemcpyAsync"] * 4
    assert work[1:] == ["cudaMemcpyAsync", "cudaEventRecord", *copies, "cudaStreamSynchronize"]
    backend.close()


def test_a_computation_waits_for_the_one_before(
    own_bundle: Path, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream has queued its computation, and the GPU has not begun it, when the other queues its own."""
    module.cuda.free_memory = 0  # both share scratch memory
    backend = open_plan(own_bundle, module)
    x, y = pixels(SHAPES[0]), pixels(SHAPES[1], seed=1)
    asked, done = threading.Event(), threading.Event()
    synchronize, first = Cuda.synchronize, threading.Thread(target=lambda: results.append(backend.run(x)))
    results: list[dict[str, np.ndarray]] = []

    def late(self: Cuda, stream: Any) -> None:
        if threading.current_thread() is first:
            asked.set()
            assert done.wait(timeout=20)
        synchronize(self, stream)

    monkeypatch.setattr(Cuda, "synchronize", late)
    first.start()
    assert asked.wait(timeout=20)
    assert_right(own_bundle, y, backend.run(y))
    done.set()
    first.join()
    assert_right(own_bundle, x, results[0])
    backend.close()


def test_graphs_from_the_third_use_of_a_shape(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    x = pixels(SHAPES[0])
    launches = []
    for _ in range(4):
        backend.run(x)
        launches.append(old.cuda.calls.count("cudaGraphLaunch"))
    assert launches == [0, 0, 1, 2]
    assert old.cuda.calls.count("cudaGraphInstantiate") == 1
    assert old.cuda.alive["graph"] == 0, "only the executable one is kept"
    backend.close()


def test_graphs_are_bounded(own_bundle: Path, old: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GRAPHS", 2)
    backend = open_plan(own_bundle, old)
    for _ in range(3):
        for width in (96, 80, 64, 48):
            backend.run(pixels((1, 3, 32, width)))
            assert old.cuda.alive["executable"] <= 2
    assert old.cuda.alive["executable"] == 2
    backend.close()
    assert old.cuda.leaked == {}


def test_graphs_end_when_their_memory_moves(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    small = pixels(SHAPES[0])
    for _ in range(3):
        backend.run(small)
    assert old.cuda.alive["executable"] == 1
    backend.run(pixels((4, 3, 160, 160)))
    assert old.cuda.alive["executable"] == 0
    assert_right(own_bundle, small, backend.run(small))
    backend.close()


def test_rtx_captures_by_itself(own_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    module = pretend_tensorrt(monkeypatch, "rtx")
    backend = open_plan(own_bundle, module)
    for _ in range(4):
        backend.run(pixels(SHAPES[0]))
    assert "cudaStreamBeginCapture" not in module.cuda.calls
    assert {value.name for value in module.called("cuda_graph_strategy") if value} == {"WHOLE_GRAPH_CAPTURE"}
    specialised = module.called("dynamic_shapes_kernel_specialization_strategy")
    assert {value.name for value in specialised if value} == {"EAGER"}
    backend.close()
    assert module.cuda.leaked == {}


def test_what_cannot_be_captured_runs_without(own_bundle: Path, old: FakeTensorRT) -> None:
    old.cuda.fail["cudaStreamEndCapture", 1] = Error.cudaErrorStreamCaptureUnsupported
    backend = open_plan(own_bundle, old)
    x = pixels(SHAPES[0])
    for _ in range(4):
        assert_right(own_bundle, x, backend.run(x))
    assert "cudaGraphLaunch" not in old.cuda.calls
    assert old.cuda.calls.count("cudaStreamBeginCapture") == 1
    backend.close()


def test_a_failed_capture_leaves_no_error_behind(own_bundle: Path, old: FakeTensorRT) -> None:
    """What TensorRT enqueues fails during the capture, and CUDA keeps a note of it for the next launch."""
    backend = open_plan(own_bundle, old, plan={"uncapturable": True})
    x = pixels(SHAPES[0])
    for _ in range(4):
        assert_right(own_bundle, x, backend.run(x))
    assert old.cuda.calls.count("cudaStreamBeginCapture") == 1
    backend.close()
    assert old.cuda.leaked == {}


def test_streamed_weights_are_never_captured(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old, weight_streaming=True, plan={"uncapturable": True})
    x = pixels(SHAPES[0])
    for _ in range(4):
        assert_right(own_bundle, x, backend.run(x))
    assert "cudaStreamBeginCapture" not in old.cuda.calls
    backend.close()


def test_fewer_graphs_where_the_cpu_shares_the_memory(own_bundle: Path, old: FakeTensorRT) -> None:
    old.cuda.integrated = True
    backend = open_plan(own_bundle, old)
    for _ in range(3):
        for width in (96, 80, 64, 48):
            backend.run(pixels((1, 3, 32, width)))
    assert old.cuda.alive["executable"] <= streams.GRAPHS_IN_SHARED_MEMORY < streams.GRAPHS
    backend.close()


def test_no_memory_for_a_context_of_its_own(own_bundle: Path, old: FakeTensorRT) -> None:
    """The second use of a shape wants a context; without memory for it the first one goes on."""
    backend = open_plan(own_bundle, old)
    x, y = pixels(SHAPES[0]), pixels(SHAPES[1], seed=1)
    for _ in range(3):
        backend.run(y)
    backend.run(x)
    old.refuse.add("create_execution_context")
    for _ in range(3):
        assert_right(own_bundle, x, backend.run(x))
        assert_right(own_bundle, y, backend.run(y))
    assert old.cuda.alive["executable"] == 0, "what graphs hold is freed first"
    backend.close()
    assert old.cuda.leaked == {}


def test_closed_is_closed(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    backend.close()
    backend.close()
    for _ in range(2):
        with pytest.raises(MisuseError, match=r"model\.plan has been closed"):
            backend.run(pixels(SHAPES[0]))


# ---- what goes wrong -------------------------------------------------------------------------------

SCENARIO = ((1, 3, 32, 48), (1, 3, 32, 48), (1, 3, 32, 48), (2, 3, 48, 32))

# What stays, of necessity, when giving it back is what fails.
FREES = {
    "cudaFree": "device",
    "cudaFreeHost": "host",
    "cudaStreamDestroy": "stream",
    "cudaEventDestroy": "event",
    "cudaGraphDestroy": "graph",
    "cudaGraphExecDestroy": "executable",
}


def play(plan: Plan, right: dict[tuple[int, ...], np.ndarray]) -> None:
    """A whole life: opened, one shape until it is a graph, a larger one, closed."""
    backend = open_backend(plan.facts.runtime.split()[0], plan.path, build=plan.facts)
    try:
        for shape in SCENARIO:
            np.testing.assert_allclose(backend.run(pixels(shape))["cls"], right[shape], rtol=1e-4, atol=1e-5)
    finally:
        backend.close()


def right_cls(root: Path) -> dict[tuple[int, ...], np.ndarray]:
    return {shape: wanted(root, pixels(shape))["cls"] for shape in set(SCENARIO)}


def test_every_cuda_call_may_fail(own_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    """Each call of a whole life, one at a time: one clear line, nothing leaked, or nothing noticed at all."""
    module = pretend_tensorrt(monkeypatch, "10.3")
    plan, right = add_plan(own_bundle, module), right_cls(own_bundle)
    play(plan, right)
    calls = Counter(module.cuda.calls)
    assert calls.total() > 60
    told = 0
    for function, nth in ((f, n) for f, count in calls.items() for n in {1, 2, count}):
        module = pretend_tensorrt(monkeypatch, "10.3")
        module.cuda.fail[function, nth] = Error.cudaErrorIllegalAddress
        message = None
        try:
            play(plan, right)
        except UnavailableError as error:
            message = str(error)
        if message is not None:
            assert message.startswith(f"the GPU failed at {function}: something went wrong")
            assert "(cudaErrorIllegalAddress); " in message
            assert "\n" not in message
            told += 1
        leaked = {kind: n for kind, n in module.cuda.leaked.items() if kind != FREES.get(function)}
        assert leaked == {}, (function, nth)
        assert module.alive == 0, (function, nth)
    assert told > 20  # the others are of giving back, or of a graph that can be done without


def test_out_of_memory_says_what_to_do(own_bundle: Path, old: FakeTensorRT) -> None:
    old.cuda.fail["cudaMalloc", 2] = Error.cudaErrorMemoryAllocation  # a second scratch memory: not needed
    old.cuda.fail["cudaMalloc", 3] = Error.cudaErrorMemoryAllocation
    backend = open_plan(own_bundle, old)
    with pytest.raises(UnavailableError, match=r"cudaMalloc: .*run smaller batches \(--batch\)"):
        backend.run(pixels(SHAPES[0]))
    x = pixels(SHAPES[0])
    assert_right(own_bundle, x, backend.run(x))  # the stream still works
    backend.close()
    assert old.cuda.leaked == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("deserialize_cuda_engine", "cannot load it: deserialize_cuda_engine was told to fail"),
        ("create_execution_context", "no execution context can be made: create_execution_context was told"),
        ("set_input_shape", r"input shape \[1, 3, 32, 48\] is refused: set_input_shape was told to fail"),
        ("set_tensor_address", "the address of 'pixels' is refused"),
        ("infer_shapes", "no shape is known for pixels"),
        ("execute_async_v3", "execution failed: execute_async_v3 was told to fail"),
    ],
)
def test_every_tensorrt_call_may_say_no(
    method: str, message: str, own_bundle: Path, module: FakeTensorRT
) -> None:
    module.refuse.add(method)
    plan = add_plan(own_bundle, module)
    with pytest.raises(UnavailableError, match=message) as caught:
        play(plan, right_cls(own_bundle))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.plan: ")
    assert module.cuda.leaked == {}
    del caught
    gc.collect()
    assert module.alive == 0


def test_shape_inference_that_raises(own_bundle: Path, module: FakeTensorRT) -> None:
    """The binding raises RuntimeError where TensorRT's function fails."""
    backend = open_plan(own_bundle, module, plan={"inference_fails": True})
    with pytest.raises(UnavailableError, match="no shape is known: infer_shapes error code: -1"):
        backend.run(pixels(SHAPES[0]))
    backend.close()


def test_a_profile_that_cannot_be_chosen(own_bundle: Path, old: FakeTensorRT) -> None:
    backend = open_plan(own_bundle, old)
    old.refuse.add("set_optimization_profile_async")
    with pytest.raises(UnavailableError, match="profile 1 cannot be chosen"):
        backend.run(pixels((8, 3, 64, 64)))
    backend.close()
