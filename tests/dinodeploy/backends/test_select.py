"""`--device`: which engine of a bundle runs, and that nothing better is passed over in silence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder, MisuseError, OutsideProfileError, TamperedError, UnavailableError
from dinodeploy.backends import select
from dinodeploy.backends.select import DEVICES, candidates
from dinodeploy.bundle.bundle import locate, open_bundle
from dinodeploy.bundle.manifest import ProfileFacts, write_manifest
from dinodeploy.hardware import instructions
from dinodeploy.hardware.devices import Cpu
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.receipts import read_receipts
from tests.dinodeploy.backends.fake_tensorrt import FakeTensorRT
from tests.dinodeploy.backends.gpu_machine import DEVICE, add_plan, no_gpu, pretend_gpu, pretend_tensorrt
from tests.support.tiny_models import export_tiny


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No GPU, wherever these tests run, unless one asks for it; and no receipts of other tests."""
    with no_gpu(monkeypatch, tmp_path):
        yield


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    pretend_gpu(monkeypatch, tmp_path)
    return pretend_tensorrt(monkeypatch)


@pytest.fixture(scope="module")
def fp16_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("fp16") / "b", recipe="fp16").root


def order(bundle: Path, device: str) -> list[tuple[str, str]]:
    opened, file = locate(bundle)
    return [(c.backend, c.file) for c in candidates(opened, device, file=file)]


def test_the_order_of_preference(own_bundle: Path, module: FakeTensorRT) -> None:
    add_plan(own_bundle, module)
    assert order(own_bundle, "auto") == [
        ("tensorrt", "model.plan"),
        ("onnxruntime_cuda", "model.onnx"),
        ("onnxruntime", "model.cpu.onnx"),
        ("onnxruntime", "model.onnx"),
    ]
    assert order(own_bundle, "cpu") == [("onnxruntime", "model.cpu.onnx"), ("onnxruntime", "model.onnx")]
    assert order(own_bundle / "model.onnx", "cpu") == [("onnxruntime", "model.onnx")]
    assert order(own_bundle, "cuda") == [("onnxruntime_cuda", "model.onnx")]
    assert order(own_bundle, "tensorrt") == [("tensorrt", "model.plan")]


def test_for_cls_alone_a_gpu_runs_the_cls_only_engines(own_bundle: Path, module: FakeTensorRT) -> None:
    add_plan(own_bundle, module)
    source = {"source": "model.cls.onnx"}
    source["source_sha256"] = open_bundle(own_bundle).manifest.engine_sha256(source["source"])
    add_plan(own_bundle, module, "model.cls.plan", cls_of="model.plan", **source)
    bundle = open_bundle(own_bundle)
    wanted = {
        "tensorrt": ["model.cls.plan", "model.plan"],
        "cuda": ["model.cls.onnx", "model.onnx"],
    }
    for device, files in wanted.items():
        assert [choice.file for choice in candidates(bundle, device, ("cls",))] == files
        for outputs in (None, ("cls", "patch")):
            assert [choice.file for choice in candidates(bundle, device, outputs)] == files[1:]
    steps = bundle.manifest.preprocess
    one, other = (bundle.manifest.fingerprint(name, steps) for name in wanted["tensorrt"])
    assert one == other, "rows of both may be in one store"


@pytest.mark.parametrize("recipe", ["int8", "fp8"])
def test_auto_leaves_8_bits_to_runtimes_that_have_them(
    recipe: str, own_bundle: Path, module: FakeTensorRT
) -> None:
    """ONNX Runtime has no 8-bit products on a GPU; a CPU has."""
    bundle = open_bundle(own_bundle)
    graph = replace(bundle.manifest.graph, recipe=recipe)
    bundle = replace(bundle, manifest=replace(bundle.manifest, graph=graph))
    assert "onnxruntime_cuda" not in [choice.backend for choice in candidates(bundle, "auto")]
    assert [choice.backend for choice in candidates(bundle, "cuda")] == ["onnxruntime_cuda"]


def test_a_gpu_runs_the_typed_graph_and_a_cpu_its_twin(fp16_bundle: Path) -> None:
    assert order(fp16_bundle, "auto") == [
        ("onnxruntime_cuda", "model.onnx"),
        ("onnxruntime", "model.cpu.onnx"),
    ]
    (cuda,) = candidates(open_bundle(fp16_bundle), "cuda")
    assert set(cuda.needed_files) == {"model.onnx", "model.onnx.data", "golden.safetensors"}
    with pytest.raises(MisuseError, match=r"model\.cpu\.onnx is for onnxruntime, --device cuda is not"):
        candidates(open_bundle(fp16_bundle), "cuda", file="model.cpu.onnx")
    with pytest.raises(MisuseError, match=r"model\.onnx is for onnxruntime_cuda, --device cpu is not"):
        candidates(open_bundle(fp16_bundle), "cpu", file="model.onnx")


@pytest.mark.parametrize(("features", "graph"), [({"avx2"}, "cpu"), ({"avx2", "avx512_vnni"}, "cpu.vnni")])
def test_a_graph_that_needs_instructions(
    features: set[str], graph: str, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs where the CPU has them; elsewhere the graph for every CPU runs, and to name it is an error."""
    monkeypatch.setattr(instructions, "find_cpu", lambda: Cpu("a CPU", frozenset(features)))
    manifest = open_bundle(own_bundle).manifest
    engines, files = dict(manifest.engines), dict(manifest.files)
    for one in ("", ".cls"):
        name, other = f"model.cpu.vnni{one}.onnx", f"model.cpu{one}.onnx"
        shutil.copy(own_bundle / other, own_bundle / name)
        source = engines[other]
        full = "model.cpu.vnni.onnx" if one else None
        files[name] = files[other]
        engines[name] = replace(
            source, files=(name, "model.onnx.data"), same_numbers_as=full, instructions=("vnni",)
        )
    del engines["model.onnx"], engines["model.cls.onnx"]
    write_manifest(replace(manifest, engines=engines, files=files), own_bundle)
    assert order(own_bundle, "cpu") == [("onnxruntime", f"model.{graph}.onnx")]
    chosen = candidates(open_bundle(own_bundle), "cpu", ["cls"])
    assert [choice.file for choice in chosen] == [f"model.{graph}.cls.onnx", f"model.{graph}.onnx"]
    with Embedder.open(own_bundle, device="onnxruntime") as embedder:
        assert embedder.engine.file == f"model.{graph}.onnx"
    if graph == "cpu":
        with pytest.raises(
            UnavailableError, match=r"model\.cpu\.vnni\.onnx needs VNNI instructions, which .* lacks"
        ):
            Embedder.open(own_bundle / "model.cpu.vnni.onnx")


def test_a_named_engine_wins(own_bundle: Path, module: FakeTensorRT) -> None:
    plan = add_plan(own_bundle, module)
    assert order(plan.path, "auto") == [("tensorrt", "model.plan")]
    with pytest.raises(
        MisuseError, match=r"model\.plan is for tensorrt, --device cpu is not; leave --device out"
    ):
        candidates(open_bundle(own_bundle), "cpu", file="model.plan")


def test_an_unknown_device_names_the_known_ones(tiny_bundle: Path) -> None:
    with pytest.raises(MisuseError, match=f"'gpu' is unknown; wanted one of {', '.join(DEVICES)}"):
        Embedder.open(tiny_bundle, device="gpu")


def test_auto_on_a_cpu_says_what_runs(tiny_bundle: Path) -> None:
    with Embedder.open(tiny_bundle) as embedder:
        assert embedder.choice.startswith("model.cpu.onnx on cpu: ")
        assert "passed over" not in embedder.choice, "without a GPU there is nothing to regret"


def test_auto_passes_over_aloud(own_bundle: Path, module: FakeTensorRT) -> None:
    """A plan for another GPU, and an ONNX Runtime without CUDA: the CPU runs, with both reasons."""
    add_plan(own_bundle, module, compute_capabilities=("9.0",))
    with Embedder.open(own_bundle) as embedder:
        assert embedder.engine.file == "model.cpu.onnx"
        assert embedder.backend.device.startswith("cpu: ")
        assert "; passed over: model.plan was built for compute capability 9.0" in embedder.choice
        assert "has no CUDAExecutionProvider" in embedder.choice
        assert "\n" not in embedder.choice


def test_any_other_device_is_never_the_cpu(own_bundle: Path, module: FakeTensorRT) -> None:
    add_plan(own_bundle, module, compute_capabilities=("9.0",))
    with pytest.raises(UnavailableError, match=r"compute capability 9\.0, NVIDIA L4 has 8\.9; build it here"):
        Embedder.open(own_bundle, device="tensorrt")
    with pytest.raises(UnavailableError, match="has no CUDAExecutionProvider"):
        Embedder.open(own_bundle, device="cuda")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "no NVIDIA driver here"),
        ("tensorrt", "has no engine for --device tensorrt, .*: dinodeploy build"),
    ],
)
def test_without_a_gpu_one_line(device: str, message: str, tiny_bundle: Path) -> None:
    with pytest.raises(UnavailableError, match=message) as caught:
        Embedder.open(tiny_bundle, device=device)
    assert caught.value.exit_code == 4


# ---- a plan, judged and used -----------------------------------------------------------------------


def test_the_plan_is_judged_on_first_use(own_bundle: Path, module: FakeTensorRT) -> None:
    add_plan(own_bundle, module)
    with Embedder.open(own_bundle) as embedder:
        assert embedder.choice == f"model.plan on {DEVICE}, tensorrt 10.3.0"
        assert embedder.receipt is not None
        assert embedder.receipt.holds(embedder.manifest)
        plan = embedder.run(np.zeros((1, 3, 48, 80), np.float32))
    assert module.cuda.leaked == {}
    receipt = next(r for r in read_receipts(open_bundle(own_bundle)) if r.engine == "model.plan")
    assert (receipt.runtime, receipt.device) == ("tensorrt 10.3.0", DEVICE)
    with Embedder.open(own_bundle, device="cpu") as embedder:
        right = embedder.run(np.zeros((1, 3, 48, 80), np.float32))
    np.testing.assert_allclose(plan["patch"], right["patch"], rtol=1e-4, atol=1e-5)


def test_a_wrong_plan_is_rejected_and_lets_go(own_bundle: Path, module: FakeTensorRT, tmp_path: Path) -> None:
    """A plan of other weights, with facts and hash that fit: only the judge can tell."""
    from tests.dinodeploy.backends import fake_tensorrt

    other = export_tiny(tmp_path / "other", seed=1, layers=(1,)).root
    plan = add_plan(own_bundle, module)
    profiles = [[list(p.min), list(p.opt), list(p.max)] for p in plan.facts.profiles]
    fake_tensorrt.write_plan(plan.path, other / "model.onnx", *profiles)
    reseal(own_bundle, "model.plan")
    from dinodeploy import JudgementError

    with pytest.raises(JudgementError, match=r"model\.plan is not the model here"):
        Embedder.open(own_bundle)
    assert module.cuda.leaked == {}


def reseal(root: Path, name: str) -> None:

    from dinodeploy.bundle.bundle import file_facts
    from dinodeploy.bundle.manifest import read_manifest, write_manifest

    manifest = read_manifest(root)
    write_manifest(replace(manifest, files={**manifest.files, name: file_facts(root / name)}), root)


def test_a_changed_plan_is_not_loaded(own_bundle: Path, module: FakeTensorRT) -> None:
    plan = add_plan(own_bundle, module)
    plan.path.write_bytes(plan.path.read_bytes().replace(b"model", b"moded"))
    module.calls.clear()
    with pytest.raises(TamperedError, match=r"model\.plan is not the file that was exported"):
        Embedder.open(own_bundle)
    assert module.calls == [], "nothing is deserialised before its hash has matched"


def test_the_weights_of_a_stripped_plan_are_hashed(own_bundle: Path, module: FakeTensorRT) -> None:
    add_plan(own_bundle, module, stripped=True)
    graph = own_bundle / "model.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(TamperedError, match=r"model\.onnx is not the file"):
        Embedder.open(own_bundle / "model.plan")


def test_a_plan_of_another_graph(own_bundle: Path, module: FakeTensorRT) -> None:
    add_plan(own_bundle, module, source_sha256="0" * 64)
    with pytest.raises(TamperedError, match=r"was built from another model\.onnx than this bundle's"):
        Embedder.open(own_bundle)
    assert module.cuda.leaked == {}


def test_judged_at_the_sizes_it_takes(own_bundle: Path, module: FakeTensorRT) -> None:
    """Golden cases have 256x256, 256x144 and 112x192 px; this engine accepts one image of the first size."""
    only = ProfileFacts((1, 256, 256), (1, 256, 256), (1, 256, 256))
    add_plan(own_bundle, module, profiles=(only,))
    said: list[str] = []
    _, receipt, verdict = check_bundle(own_bundle, log=said.append)
    assert verdict.passed
    assert {m.case for m in receipt.measurements} == {"own_size", "all"}
    assert said == [
        f"model.plan on {DEVICE}, tensorrt 10.3.0; not judged at 256x144, 112x192, which it was not built for"
    ]


def test_nothing_to_judge_at(own_bundle: Path, module: FakeTensorRT) -> None:
    tall = ProfileFacts((1, 512, 256), (1, 512, 256), (1, 512, 256))
    add_plan(own_bundle, module, profiles=(tall,))
    with pytest.raises(
        OutsideProfileError, match=r"none of the sizes it could be judged at, 256x256, 256x144, 112x192"
    ):
        Embedder.open(own_bundle)
    assert module.cuda.leaked == {}
    with Embedder.open(own_bundle, allow_unverified=True) as embedder:
        assert embedder.run(np.zeros((1, 3, 512, 256), np.float32))["patch"].shape == (1, 32, 16, 128)


@pytest.mark.parametrize("how", ["cause", "words"])
def test_an_interrupted_import_never_leads_to_another_engine(
    how: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Native code turns Ctrl-C into an ImportError, which looks like a missing package."""
    tried: list[str] = []

    def interrupted(name: str, engine: Path, **options: object) -> None:
        tried.append(name)
        if how == "words":
            raise UnavailableError("onnxruntime cannot be imported (KeyboardInterrupt: )")
        try:
            raise ImportError("cannot be loaded") from KeyboardInterrupt()
        except ImportError as error:
            raise UnavailableError("onnxruntime cannot be imported") from error

    monkeypatch.setattr(select, "open_backend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Embedder.open(tiny_bundle)
    assert len(tried) == 1


def test_one_cpu_engine_never_replaces_another_in_silence(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a GPU, where nothing is said about engines for one."""
    real = select.open_backend

    def without_the_first(name: str, engine: Path, **options: object) -> object:
        if engine.name == "model.cpu.onnx":
            raise UnavailableError("model.cpu.onnx: no memory for it")
        return real(name, engine, **options)

    monkeypatch.setattr(select, "open_backend", without_the_first)
    with Embedder.open(tiny_bundle) as embedder:
        assert "; passed over: model.cpu.onnx: no memory for it" in embedder.choice
