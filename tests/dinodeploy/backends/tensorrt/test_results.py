"""Arrays in GPU memory go in and come out in order, without the CPU, and live as long as somebody holds them.

The fake GPU and the library on it run late and out of step: what was not ordered reads NaN, or what came
later.
"""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy import MisuseError, UnavailableError
from dinodeploy.backends.tensorrt import results
from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.backends.tensorrt.results import Pool
from dinodeploy.bundle.manifest import ProfileFacts
from tests.dinodeploy.backends.fake_cuda import Error, FakeCuda
from tests.dinodeploy.backends.fake_tensorrt import SCRATCH, FakeTensorRT
from tests.dinodeploy.backends.gpu_library import (
    CLOSE,
    Library,
    bytes_over_the_bus,
    open_plan,
    pixels,
    wanted,
)
from tests.dinodeploy.backends.gpu_machine import pretend_tensorrt


@pytest.fixture(params=["10.3", "rtx"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, gpu: None) -> FakeTensorRT:
    return pretend_tensorrt(monkeypatch, request.param)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch, gpu: None) -> FakeTensorRT:
    return pretend_tensorrt(monkeypatch, "10.3")


@pytest.mark.parametrize("protocol", ["dlpack", "versioned", "interface"])
def test_gpu_to_gpu(protocol: str, own_bundle: Path, module: FakeTensorRT) -> None:
    """Directly, in a context of its own, as a graph: nothing crosses the bus."""
    maker, reader = Library(module.cuda), Library(module.cuda)
    with open_plan(own_bundle, module) as embedder:
        for turn in range(4):
            x = pixels(turn)
            module.cuda.copied.clear()
            outputs = embedder.run(maker.array(x, protocol), outputs=("cls", "patch"), to="device")
            assert {name: array.shape for name, array in outputs.items()} == {
                "cls": (2, 128),
                "patch": (2, 3, 5, 128),
            }
            version = (1, 0) if protocol == "versioned" else None
            values = {name: reader.read(reader.share(one, version)) for name, one in outputs.items()}
            right = wanted(own_bundle, x)
            for name, value in values.items():
                np.testing.assert_allclose(value(), right[name], **CLOSE)
            assert bytes_over_the_bus(module.cuda) == 0


def test_gpu_to_host_and_host_to_gpu(own_bundle: Path, old: FakeTensorRT) -> None:
    library = Library(old.cuda)
    with open_plan(own_bundle, old) as embedder:
        for turn in range(4):
            x = pixels(turn)
            right = wanted(own_bundle, x)
            got = embedder.run(library.array(x))
            assert list(got) == list(right)
            for name, value in got.items():
                np.testing.assert_allclose(value, right[name], **CLOSE)
            kept = embedder.run(x, to="device")  # host memory is staged: the next run must not overtake it
            x.fill(7)
            again = embedder.run(pixels(turn + 10), to="device")
            np.testing.assert_allclose(kept["patch"].numpy(), right["patch"], **CLOSE)
            np.testing.assert_allclose(
                again["cls"].numpy(), wanted(own_bundle, pixels(turn + 10))["cls"], **CLOSE
            )


def test_an_input_may_be_overwritten_afterwards(own_bundle: Path, old: FakeTensorRT) -> None:
    """On its own stream, as soon as the call returns, before anybody asks for the outputs."""
    library, x = Library(old.cuda), pixels()
    with open_plan(own_bundle, old) as embedder:
        array = library.array(x)
        outputs = embedder.run(array, to="device")
        library.overwrite(array)
        old.cuda.cudaStreamSynchronize(library.stream)
        np.testing.assert_allclose(outputs["cls"].numpy(), wanted(own_bundle, x)["cls"], **CLOSE)


def test_on_the_callers_stream_nobody_waits(own_bundle: Path, old: FakeTensorRT) -> None:
    """Each run is queued behind the caller's work, and the caller's next work behind it."""
    library = Library(old.cuda)
    stream = int(library.stream)
    with open_plan(own_bundle, old) as embedder:
        for _ in range(3):  # until it is a graph
            embedder.run(library.array(pixels()), to="device", stream=stream)
        queued = []
        for turn in range(3):
            old.cuda.calls.clear()
            array = library.array(pixels(turn))
            output = embedder.run(array, outputs=("cls",), to="device", stream=stream)["cls"]
            library.overwrite(array)
            queued.append(library.read(library.share(output)))
            assert not [call for call in old.cuda.calls if "Synchronize" in call]
            assert "cudaGraphLaunch" in old.cuda.calls
        for turn, values in enumerate(queued):
            np.testing.assert_allclose(values(), wanted(own_bundle, pixels(turn))["cls"], **CLOSE)


def test_the_default_stream_of_torch_is_zero(own_bundle: Path, old: FakeTensorRT) -> None:
    library, x = Library(old.cuda), pixels()
    with open_plan(own_bundle, old) as embedder:
        output = embedder.run(library.array(x), to="device", stream=0)["cls"]
        facts = output.__cuda_array_interface__
        assert facts["stream"] in old.cuda.streams
        assert (facts["shape"], facts["typestr"], facts["version"]) == ((2, 128), "<f4", 3)
        assert facts["data"] == (facts["data"][0], False)
        old.cuda.cudaStreamSynchronize(old.cuda.streams[1])
        memory = old.cuda.regions[facts["data"][0]].memory
        values = np.frombuffer(memory, np.float32).reshape(2, 128)
        np.testing.assert_allclose(values, wanted(own_bundle, x)["cls"], **CLOSE)


def test_a_batch_is_cut_up_and_filled_up(own_bundle: Path, old: FakeTensorRT) -> None:
    library = Library(old.cuda)
    facts = ProfileFacts((3, 32, 32), (3, 64, 64), (4, 96, 96))
    with open_plan(own_bundle, old, profiles=(facts,)) as embedder:
        for batch in (1, 4, 9, 9, 9):
            x = pixels(batch, (batch, 3, 48, 64))
            right = wanted(own_bundle, x)
            for name, value in embedder.run(library.array(x), to="device").items():
                np.testing.assert_allclose(value.numpy(), right[name], **CLOSE)


def test_an_output_outlives_its_embedder(own_bundle: Path, old: FakeTensorRT) -> None:
    library, x = Library(old.cuda), pixels()
    right = wanted(own_bundle, x)
    embedder = open_plan(own_bundle, old)
    device = old.cuda.alive["device"]
    array = library.array(x)
    outputs = embedder.run(array, to="device")
    shared, capsule, own = library.share(outputs["cls"]), outputs["patch"].__dlpack__(), outputs["storage"]
    embedder.close()
    del outputs
    gc.collect()
    assert old.cuda.alive["device"] == 4, "the caller's, and three of ours; the fourth output is free"
    assert device > 1, "scratch and buffers are free"
    np.testing.assert_allclose(library.read(shared)(), right["cls"], **CLOSE)
    np.testing.assert_allclose(own.numpy(), right["storage"], **CLOSE)
    assert own.__cuda_array_interface__["stream"] is None
    library.share(own)
    del shared, capsule, own
    gc.collect()
    assert old.cuda.alive["device"] == 1
    with pytest.raises(MisuseError, match="closed"):
        embedder.run(array, to="device")


def test_memory_is_used_again_when_nobody_can_still_read_it(own_bundle: Path, old: FakeTensorRT) -> None:
    """Each reader has queued its read and let go of the array, as torch does, before the next run."""
    library = Library(old.cuda)
    with open_plan(own_bundle, old) as embedder:
        queued = []
        for turn in range(3 * results.RETURNED):
            output = embedder.run(library.array(pixels(turn)), outputs=("cls",), to="device")["cls"]
            queued.append(library.read(library.share(output)))
            del output
        sizes = [size for (size,) in [(region.size,) for region in old.cuda.regions.values()]]
        cls = 2 * 128 * 4
        assert sizes.count(cls) <= results.RETURNED + 2, "else memory grows with every run"
        for turn, values in enumerate(queued):
            np.testing.assert_allclose(values(), wanted(own_bundle, pixels(turn))["cls"], **CLOSE)
    gc.collect()


def test_nobody_waits_for_the_gpu_while_a_graph_is_captured() -> None:
    """CUDA refuses that, and the capture is lost."""
    fake, quiet = FakeCuda(), threading.Lock()
    pool = Pool(Cuda(fake), quiet)
    blocks = [pool.take(16) for _ in range(results.RETURNED)]
    blocks.clear()
    gc.collect()
    with quiet:
        waiting = threading.Thread(target=pool.take, args=(16,))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert "cudaDeviceSynchronize" not in fake.calls
    waiting.join()
    assert fake.calls.count("cudaDeviceSynchronize") == 1
    pool.close()
    gc.collect()
    assert fake.leaked == {}


def test_no_memory_for_outputs_frees_what_is_unused() -> None:
    fake = FakeCuda()
    pool = Pool(Cuda(fake), threading.Lock())
    pool.take(64)  # comes back
    fake.fail["cudaMalloc", 2] = Error.cudaErrorMemoryAllocation
    block = pool.take(32)
    assert fake.alive["device"] == 1
    fake.fail["cudaMalloc", 4] = fake.fail["cudaMalloc", 5] = Error.cudaErrorMemoryAllocation
    with pytest.raises(UnavailableError, match=r"run smaller batches"):
        pool.take(32)
    pool.close()
    assert fake.alive["device"] == 1
    del block
    assert fake.leaked == {}


def test_a_run_that_fails_leaves_a_stream_that_works(own_bundle: Path, old: FakeTensorRT) -> None:
    library, x = Library(old.cuda), pixels()
    with open_plan(own_bundle, old) as embedder:
        embedder.run(library.array(x), to="device")
        calls = old.cuda.calls.count("cudaMemcpyAsync")
        old.cuda.fail["cudaMemcpyAsync", calls + 3] = Error.cudaErrorIllegalAddress
        with pytest.raises(UnavailableError, match="the GPU failed at cudaMemcpyAsync"):
            embedder.run(library.array(x), to="device")
        got = embedder.run(library.array(x), to="device")["cls"].numpy()
        np.testing.assert_allclose(got, wanted(own_bundle, x)["cls"], **CLOSE)


def test_another_gpu_may_be_the_threads_current_one(own_bundle: Path, old: FakeTensorRT) -> None:
    library, x = Library(old.cuda), pixels()
    array = library.array(x)
    old.cuda.current = 1
    embedder = open_plan(own_bundle, old)
    output = embedder.run(array, to="device")["cls"]
    np.testing.assert_allclose(output.numpy(), wanted(own_bundle, x)["cls"], **CLOSE)
    embedder.run(x)
    embedder.close()
    del output
    gc.collect()
    assert old.cuda.current == 1
    assert old.cuda.alive["device"] == 1, "the caller's"


# ---- scratch memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "integrated", "facts", "own"),
    [
        (20 << 30, False, {}, True),
        (8 * SCRATCH - 8, False, {}, False),
        (20 << 30, True, {}, False),
        (20 << 30, False, {"weight_streaming": True}, False),
    ],
)
def test_two_threads_compute_in_parallel_where_memory_allows(
    free: int,
    integrated: bool,
    facts: dict[str, Any],
    own: bool,
    own_bundle: Path,
    old: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One computation is queued and has not begun when the other runs: it is waited for, or it is not."""
    old.cuda.free_memory, old.cuda.integrated = free, integrated
    asked, done = threading.Event(), threading.Event()
    x, got, synchronize = pixels(), list[np.ndarray](), Cuda.synchronize
    with open_plan(own_bundle, old, **facts) as embedder:
        first = threading.Thread(target=lambda: got.append(embedder.run(x)["cls"]))

        def late(self: Cuda, stream: Any) -> None:
            if threading.current_thread() is first:
                asked.set()
                assert done.wait(timeout=20)
            synchronize(self, stream)

        monkeypatch.setattr(Cuda, "synchronize", late)
        first.start()
        assert asked.wait(timeout=20)
        got.append(embedder.run(x)["cls"])
        assert len(old.cuda.computations) == own, "of the first thread"
        done.set()
        first.join()
    assert len({address for address, _ in old.called("set_device_memory")}) == 1 + own
    for value in got:
        np.testing.assert_allclose(value, wanted(own_bundle, x)["cls"], **CLOSE)
