"""Building against fakes that have exactly the names of TensorRT 10.3 and 11.4: what is called, in order.

`test_rtx.py` tests a real builder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.errors import ExportError, MisuseError, UnavailableError
from exporters.tensorrt.build_engine import build_engine
from exporters.tensorrt.device import Gpu
from exporters.tensorrt.inspect_engine import inspect_engine
from exporters.tensorrt.options import BuildOptions
from tests.exporters.tensorrt.fake_builder import PLAN, FakeTensorRT

GRAPH = Path("model.onnx")
PROFILES = (
    ProfileFacts((1, 112, 192), (8, 256, 384), (32, 512, 512)),
    ProfileFacts((1, 512, 512), (1, 768, 512), (2, 1024, 1024)),
)


@pytest.fixture(params=["10.3", "11.4"])
def fake(request: pytest.FixtureRequest) -> FakeTensorRT:
    return FakeTensorRT(request.param)


def build(fake: FakeTensorRT, **options: Any) -> Any:
    return build_engine(fake, GRAPH, PROFILES, BuildOptions(**options))


def flags(fake: FakeTensorRT) -> list[str]:
    return [str(flag).rpartition(".")[2] for (flag,) in fake.named("IBuilderConfig.set_flag")]


def test_the_order_of_a_build(fake: FakeTensorRT) -> None:
    assert build(fake).memory == PLAN
    order = [name for name, _ in fake.calls]
    wanted = [
        "Builder",
        "Builder.create_network",
        "OnnxParser.parse_from_file",
        "Builder.error_recorder",  # after parsing: see build_engine._recorded
        "Builder.create_builder_config",
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.progress_monitor",
        "Builder.build_serialized_network",
    ]
    positions = [order.index(name) for name in wanted]
    assert positions == sorted(positions)
    assert fake.named("Builder.error_recorder")[-1] == (None,), "the recorder does not outlive the build"


def test_networks_are_strongly_typed(fake: FakeTensorRT) -> None:
    build(fake)
    ((bits,),) = fake.named("Builder.create_network")
    assert bits == 1 << int(fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_a_version_without_the_flag_is_strongly_typed() -> None:
    fake = FakeTensorRT("11.4")
    del fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    build(fake)
    assert fake.named("Builder.create_network") == [(0,)]


def test_profiles_reach_the_builder_with_three_channels(fake: FakeTensorRT) -> None:
    build(fake)
    assert fake.named("IOptimizationProfile.set_shape") == [
        ("pixels", (1, 3, 112, 192), (8, 3, 256, 384), (32, 3, 512, 512)),
        ("pixels", (1, 3, 512, 512), (1, 3, 768, 512), (2, 3, 1024, 1024)),
    ]
    assert len(fake.named("IBuilderConfig.add_optimization_profile")) == 2


def test_fp32_is_never_tf32(fake: FakeTensorRT) -> None:
    build(fake)
    assert fake.named("IBuilderConfig.clear_flag") == [(fake.BuilderFlag.TF32,)]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, []),
        ({"refit": True}, ["REFIT"]),
        ({"strip_plan": True}, ["REFIT_IDENTICAL", "STRIP_PLAN"]),
        ({"strip_plan": True, "refit": True}, ["REFIT", "STRIP_PLAN"]),
        ({"version_compatible": True, "weight_streaming": True}, ["VERSION_COMPATIBLE", "WEIGHT_STREAMING"]),
    ],
)
def test_options_become_flags(fake: FakeTensorRT, options: dict[str, Any], wanted: list[str]) -> None:
    build(fake, **options)
    assert flags(fake) == wanted


def test_other_options(fake: FakeTensorRT) -> None:
    build(fake, workspace=1.5, level=5, hardware_compatible="ampere_plus")
    pool = fake.MemoryPoolType.WORKSPACE
    assert fake.named("IBuilderConfig.set_memory_pool_limit") == [(pool, 3 * 2**29)]
    assert fake.named("IBuilderConfig.builder_optimization_level") == [(5,)]
    assert fake.named("IBuilderConfig.hardware_compatibility_level") == [
        (fake.HardwareCompatibilityLevel.AMPERE_PLUS,)
    ]
    quiet = FakeTensorRT("11.4")
    build(quiet)
    for untouched in ("set_memory_pool_limit", "builder_optimization_level", "hardware_compatibility_level"):
        assert quiet.named(f"IBuilderConfig.{untouched}") == []


def test_the_timing_cache_is_read_and_written(fake: FakeTensorRT, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "timings"
    build(fake, timing_cache=cache)
    assert cache.read_bytes() == b"timings"
    build(fake, timing_cache=cache)
    assert fake.named("IBuilderConfig.create_timing_cache") == [(b"",), (b"timings",)]
    assert [ignore for _, ignore in fake.named("IBuilderConfig.set_timing_cache")] == [False, False]


def test_a_foreign_timing_cache_is_refused_and_kept(fake: FakeTensorRT, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"another GPU's")
    fake.answer("IBuilderConfig.set_timing_cache", lambda _, cache, ignore: False)
    with pytest.raises(MisuseError, match="was not made by this TensorRT on this GPU"):
        build(fake, timing_cache=cache)
    assert cache.read_bytes() == b"another GPU's"


def test_a_parser_error_names_the_node(fake: FakeTensorRT) -> None:
    fake.answer("OnnxParser.parse_from_file", lambda _, path: False)
    fake.answer("OnnxParser.num_errors", 2)
    fake.answer("OnnxParser.get_error", lambda _, index: fake.ParserError())
    fake.answer("ParserError.node_name", lambda _: "blocks.3.attn/Softmax")
    fake.answer("ParserError.node_operator", lambda _: "Softmax")
    fake.answer("ParserError.desc", lambda _: "unsupported axis")
    with pytest.raises(
        ExportError, match=r"cannot parse it: blocks\.3\.attn/Softmax \(Softmax\): unsupported"
    ):
        build(fake)


def test_a_failed_build_reports_the_first_useful_reason(fake: FakeTensorRT) -> None:
    def fail(builder: Any, network: Any, config: Any) -> None:
        recorder = builder.error_recorder
        for text in (
            "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35)",
            "Error Code 10: Internal Error (no tactic within workspace limit. In choose at /_src/a.cpp:7)",
            "a later one",
        ):
            recorder.report_error(1, text)

    fake.answer("Builder.build_serialized_network", fail)
    with pytest.raises(ExportError) as caught:
        build(fake)
    assert str(caught.value) == (
        "model.onnx: TensorRT could not build an engine: Error Code 10: Internal Error (no tactic within "
        "workspace limit.); give a larger --workspace"
    )


def test_a_failed_build_without_a_message(fake: FakeTensorRT) -> None:
    fake.answer("Builder.build_serialized_network", lambda _, network, config: None)
    with pytest.raises(ExportError, match="it gave no reason"):
        build(fake)


def test_a_refused_profile(fake: FakeTensorRT) -> None:
    fake.answer("IBuilderConfig.add_optimization_profile", lambda _, profile: -1)
    with pytest.raises(ExportError, match="TensorRT refuses the profile"):
        build(fake)
    assert fake.named("Builder.build_serialized_network") == []


def test_no_builder_without_a_driver(fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_builder(logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(fake, "Builder", no_builder)
    with pytest.raises(UnavailableError, match="is there a GPU, and a driver for it"):
        build(fake)


def test_progress_and_stop_reach_the_builder(fake: FakeTensorRT) -> None:
    seen: list[tuple[float, str]] = []

    def work(builder: Any, network: Any, config: Any) -> bytes:
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        assert monitor.step_complete("Building", 0)
        monitor.phase_finish("Building")
        return PLAN

    fake.answer("Builder.build_serialized_network", work)
    build_engine(fake, GRAPH, PROFILES, BuildOptions(), report=lambda f, phase: seen.append((f, phase)))
    assert seen == [(0.0, "Building"), (0.5, "Building"), (1.0, "Building")]


def test_an_engine_is_inspected_where_it_can_be_loaded(fake: FakeTensorRT) -> None:
    plan = build(fake)
    without = inspect_engine(fake, plan, None)
    assert without["engine"] is None
    assert without["engine_missing"]
    assert without["network"]["layers"] == {"SOFTMAX": {"HALF": 1}}
    assert inspect_engine(fake, plan, Gpu("NVIDIA", "8.9", "580"))["engine"] == {"Layers": ["mha"]}
    fake.answer("EngineInspector.get_engine_information", lambda _, form: 'a "bad" \\x name')
    assert inspect_engine(fake, plan, Gpu("NVIDIA", "8.9", "580"))["engine"] == 'a "bad" \\x name'
    fake.answer("Runtime.deserialize_cuda_engine", lambda _, plan: None)
    refused = inspect_engine(fake, plan, Gpu("NVIDIA", "8.9", "580"))
    assert "cannot be loaded on this GPU" in refused["engine_missing"]


def test_the_list_of_layers_is_read_from_the_log(fake: FakeTensorRT) -> None:
    def talk(builder: Any, network: Any, config: Any) -> bytes:
        ((logger,),) = fake.named("Builder")
        logger.log(fake.ILogger.VERBOSE, "Layers:\nName: _gemm_mha_v2, LayerType: kgen\n\nName: b\n")
        logger.log(fake.ILogger.VERBOSE, "Layer: something else")
        return PLAN

    fake.answer("Builder.build_serialized_network", talk)
    assert build(fake).engine_layers == ("Name: _gemm_mha_v2, LayerType: kgen", "Name: b")
