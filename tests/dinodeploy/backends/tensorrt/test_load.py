"""From plan to engine: what is missing, foreign, stripped or streamed, each in one line. And the real RTX."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.backends import open_backend
from dinodeploy.backends import tensorrt as package
from dinodeploy.backends.tensorrt.backend import TensorRTBackend
from dinodeploy.backends.tensorrt.cuda import import_cuda
from dinodeploy.errors import BundleError, MisuseError, UnavailableError
from dinodeploy.hardware import devices as machine
from tests.dinodeploy.backends.fake_cuda import FakeCuda
from tests.dinodeploy.backends.fake_tensorrt import STREAMING_SCRATCH, FakeTensorRT, read_api
from tests.dinodeploy.backends.gpu_machine import Plan, add_plan, build_facts, pretend_tensorrt

X = np.zeros((1, 3, 32, 48), np.float32)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, gpu: None) -> FakeTensorRT:
    return pretend_tensorrt(monkeypatch, "11.4")


def opened(plan: Plan, **options: Any) -> TensorRTBackend:
    backend = open_backend(plan.facts.runtime.split()[0], plan.path, build=plan.facts, **options)
    assert isinstance(backend, TensorRTBackend)
    return backend


def test_the_fake_has_the_surface_of_its_version_and_no_more() -> None:
    """Else the tests with it would prove nothing."""
    for version, here, not_here in (
        ("10.3", "has_implicit_batch_dimension", "create_runtime_config"),
        ("11.4", "create_runtime_config", "has_implicit_batch_dimension"),
    ):
        module = FakeTensorRT(read_api(version), FakeCuda(), version=version)
        assert here in read_api(version)["ICudaEngine"]
        engine = module.ICudaEngine
        assert not hasattr(engine, not_here)
        with pytest.raises(AttributeError, match="has no CudaGraphStrategy"):
            _ = module.CudaGraphStrategy
        config = module.Runtime(None)
        with pytest.raises(AttributeError, match="has no bogus"):
            config.bogus = 1


def test_a_stripped_plan_gets_its_weights(own_bundle: Path, module: FakeTensorRT) -> None:
    backend = opened(add_plan(own_bundle, module, stripped=True, refittable=True))
    assert module.called("refit_from_file") == [(str(own_bundle / "model.onnx"),)]
    assert np.isfinite(backend.run(X)["cls"]).all()
    backend.close()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "refit_from_file",
            r"cannot take those of model\.onnx: the weights have other shapes; build it with",
        ),
        ("get_missing_weights", r"left 1 weights missing, first blocks\.0\.mlp\.fc1\.weight"),
        ("refit_cuda_engine", "refitting from model.onnx left 0 weights missing: refit_cuda_engine was told"),
    ],
)
def test_weights_that_do_not_fit(method: str, message: str, own_bundle: Path, module: FakeTensorRT) -> None:
    module.refuse.add(method)
    with pytest.raises(UnavailableError, match=message):
        opened(add_plan(own_bundle, module, stripped=True))
    assert module.cuda.leaked == {}


GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "streamable"),
    [(24 * GIB, 10 * GIB), (8 * GIB, 13 * GIB), (4 * GIB, 27 * GIB), (GIB // 4, 3 * GIB)],
)
def test_the_default_budget_is_what_fits(
    free: int, streamable: int, own_bundle: Path, module: FakeTensorRT
) -> None:
    """The binding's own proposal is cut to 32 bits: 9.1 GiB would be 1.1, 2.1 GiB negative."""
    module.cuda.free_memory = free
    scratch = GIB // 8
    plan = add_plan(
        own_bundle, module, weight_streaming=True, plan={"streamable": streamable, "scratch": scratch}
    )
    opened(plan).close()
    kept = module.called("weight_streaming_budget_v2")[-1]
    used = scratch + STREAMING_SCRATCH
    assert kept == min(streamable, max(0, free - used - max(GIB // 2, free // 8)))
    assert not module.called("get_weight_streaming_automatic_budget")


def test_a_budget_that_tensorrt_refuses_is_not_silent(own_bundle: Path, module: FakeTensorRT) -> None:
    module.refuse.add("weight_streaming_budget_v2")
    with pytest.raises(UnavailableError, match="a weight budget of 300 bytes is refused"):
        opened(add_plan(own_bundle, module, weight_streaming=True), weight_budget=300)
    assert module.cuda.leaked == {}


@pytest.mark.parametrize(("budget", "kept"), [(None, 1000), (0, 0), (300, 300), (10**9, 1000)])
def test_the_budget_of_streamed_weights(
    budget: int | None, kept: int, own_bundle: Path, module: FakeTensorRT
) -> None:
    backend = opened(add_plan(own_bundle, module, weight_streaming=True), weight_budget=budget)
    assert module.called("weight_streaming_budget_v2")[-1] == kept
    order = [name for name, _ in module.calls]
    last_budget = len(order) - 1 - order[::-1].index("weight_streaming_budget_v2")
    assert last_budget < order.index("create_execution_context"), "TensorRT takes it before contexts only"
    backend.close()


def test_a_budget_without_streaming(own_bundle: Path, module: FakeTensorRT) -> None:
    with pytest.raises(MisuseError, match=r"keeps all its weights .* --weight-streaming --overwrite"):
        opened(add_plan(own_bundle, module), weight_budget=1)
    with pytest.raises(MisuseError, match="-1 bytes; wanted 0 or more"):
        opened(add_plan(own_bundle, module), weight_budget=-1)


def test_a_version_compatible_plan_may_bring_its_runtime(own_bundle: Path, module: FakeTensorRT) -> None:
    opened(add_plan(own_bundle, module)).close()
    assert module.called("engine_host_code_allowed") == []
    opened(add_plan(own_bundle, module, version_compatible=True)).close()
    assert module.called("engine_host_code_allowed") == [True]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"half": ["cls"]}, r"tensor 'cls' is DataType\.HALF; wanted float32"),
        ({"more_inputs": ["masks"]}, "has the inputs pixels, masks; wanted one, the pixels"),
    ],
)
def test_a_plan_that_is_none_of_ours(
    plan: dict[str, Any], message: str, own_bundle: Path, module: FakeTensorRT
) -> None:
    with pytest.raises(BundleError, match=message):
        opened(add_plan(own_bundle, module, plan=plan))
    assert module.cuda.leaked == {}


def test_what_tensorrt_cannot_read_is_one_line(own_bundle: Path, module: FakeTensorRT) -> None:
    plan = add_plan(own_bundle, module)
    plan.path.write_bytes(b"\x00 no plan")
    with pytest.raises(UnavailableError) as caught:
        opened(plan)
    assert str(caught.value) == (
        "model.plan: tensorrt 11.4.0 cannot load it: Serialization assertion magicTag failed; "
        f"build it here: dinodeploy build {own_bundle} --target tensorrt --overwrite"
    )


def test_a_plan_without_facts(own_bundle: Path, module: FakeTensorRT) -> None:
    plan = add_plan(own_bundle, module)
    with pytest.raises(BundleError, match="does not say what it was built by and for"):
        open_backend("tensorrt", plan.path)


def test_the_gpu_is_looked_for_first(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeTensorRT(read_api("10.3"), FakeCuda())
    monkeypatch.setattr(machine, "DRIVER_LIBRARY", "libnothing_of_that_name.so")
    plan = add_plan(own_bundle, module)
    with pytest.raises(UnavailableError, match=r"no NVIDIA driver here \(libnothing_of_that_name\.so"):
        opened(plan)
    assert module.calls == []


@pytest.mark.parametrize("missing", ["tensorrt", "cuda"])
def test_what_is_not_installed(
    missing: str, own_bundle: Path, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = add_plan(own_bundle, module)
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "cuda":
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    hint = {"tensorrt": r"pip install 'dinodeploy\[tensorrt\]'", "cuda": "pip install cuda-bindings"}[missing]
    with pytest.raises(UnavailableError, match=hint):
        opened(plan)


def test_bindings_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    old = types.ModuleType("cuda")
    old.cudart = FakeCuda()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", old)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert import_cuda() is old.cudart


# ---- TensorRT-RTX itself ---------------------------------------------------------------------------


def real_plan(root: Path, rtx: Any) -> Plan:
    """Built here by TensorRT-RTX, which needs no GPU for that."""
    logger = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert rtx.OnnxParser(network, logger).parse_from_file(str(root / "model.onnx"))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("pixels", (1, 3, 32, 32), (1, 3, 64, 64), (2, 3, 96, 96))
    config.add_optimization_profile(profile)
    path = root / "model.plan"
    path.write_bytes(builder.build_serialized_network(network, config))
    return Plan(path, build_facts(root, rtx, compute_capabilities=(), driver=None))


def test_the_real_rtx_without_a_gpu(own_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    """Everything up to the GPU is real; a missing GPU must end as one line, whatever RTX does then."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="published for Linux on x86-64 only")
    monkeypatch.setattr(package, "import_cuda", FakeCuda)
    plan = real_plan(own_bundle, rtx)
    with pytest.raises(UnavailableError) as caught:
        opened(plan)
    message = str(caught.value)
    assert message.startswith(f"model.plan: tensorrt_rtx {rtx.__version__} cannot load it: ")
    assert "CUDA driver version is insufficient" in message
    assert "\n" not in message
    plan.path.write_bytes(b"no plan at all" * 20)
    with pytest.raises(UnavailableError, match="Serialization assertion"):
        opened(plan)
