"""Adding a plan to a bundle: what changes, what stays, and the state after a failure."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import read_manifest, write_manifest
from dinodeploy.embedder import Embedder
from dinodeploy.errors import ExportError, MisuseError, OutputExistsError, TamperedError, UnavailableError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.parity.receipts import read_receipts
from exporters.tensorrt import add_engine as module
from exporters.tensorrt.add_engine import EngineRequest, add_engine
from exporters.tensorrt.device import Gpu
from exporters.tensorrt.options import BuildOptions
from tests.exporters.tensorrt.fake_builder import PLAN, FakeTensorRT, pretend_ada


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return pretend_ada(monkeypatch)


def content(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_a_build_adds_and_changes_nothing_else(own_bundle: Path, fake: FakeTensorRT) -> None:
    before, files = read_manifest(own_bundle), content(own_bundle)
    built, notes = add_engine(own_bundle, EngineRequest(options=BuildOptions(level=3)))
    after = read_manifest(own_bundle)
    assert after.facts() == before.facts()
    assert set(after.engines) == {*before.engines, "model.plan"}
    assert after.engines["model.onnx"] == before.engines["model.onnx"]
    assert (built.file, notes) == ("model.plan", ())
    assert (own_bundle / "model.plan").read_bytes() == PLAN, "a plain plan, with nothing before it"
    changed = {name for name, old in files.items() if (own_bundle / name).read_bytes() != old}
    assert changed == {"manifest.json"}
    open_bundle(own_bundle).verify()


def test_the_manifest_describes_the_build(own_bundle: Path, fake: FakeTensorRT) -> None:
    request = EngineRequest(
        batch=("1:2:4",), imgsz=("112x192:256:512",), options=BuildOptions(strip_plan=True)
    )
    built, _ = add_engine(own_bundle, request)
    engine = built.facts
    assert (engine.backend, engine.files) == ("tensorrt", ("model.plan",))
    build = engine.build
    assert build is not None
    assert build.runtime == "tensorrt 11.4.0"
    assert (build.source, build.source_sha256) == (
        "model.onnx",
        built.manifest.engine_sha256("model.onnx"),
    )
    (profile,) = build.profiles
    assert (profile.min, profile.opt, profile.max) == ((1, 112, 192), (2, 256, 256), (4, 512, 512))
    assert (build.compute_capabilities, build.driver) == (("8.9",), "580.65.06")
    assert (build.refittable, build.stripped, build.weight_streaming) == (True, True, False)
    assert (build.version_compatible, build.hardware_compatible) == (False, "none")
    assert build.optimization_level is None
    inspection = json.loads((own_bundle / "model.plan.json").read_text())
    assert inspection["engine"] == {"Layers": ["mha"]}
    assert "model.plan.json" in built.manifest.files


def test_receipts_stay_valid_and_the_cpu_engine_stays_first(
    own_bundle: Path, fake: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # others judge bundles of the same digest
    with Embedder.open(own_bundle):
        receipts = read_receipts(open_bundle(own_bundle))
    add_engine(own_bundle, EngineRequest())
    add_engine(own_bundle, EngineRequest(name="second"))
    assert read_receipts(open_bundle(own_bundle)) == receipts
    with Embedder.open(own_bundle / "model.onnx") as embedder:
        assert embedder.receipt in receipts
    engines = list(read_manifest(own_bundle).engines)
    assert engines[0] == "model.cpu.onnx"
    assert {"model.plan", "second.plan"} < set(engines)


def test_an_old_manifest_keeps_its_digest(tiny_bundle: Path, tmp_path: Path) -> None:
    """Older versions wrote fields with their default values, or did not know them: the digest is the same."""
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["engines"]["model.onnx"]["build"] = None
    manifest["head"] = None
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(tmp_path) == read_manifest(tiny_bundle)


def test_a_plan_is_replaced_only_when_asked(own_bundle: Path, fake: FakeTensorRT) -> None:
    add_engine(own_bundle, EngineRequest())
    with pytest.raises(OutputExistsError, match=r"model\.plan exists already; give --overwrite or another"):
        add_engine(own_bundle, EngineRequest())
    fake.answer("Builder.build_serialized_network", lambda _, network, config: b"another plan")
    add_engine(own_bundle, EngineRequest(overwrite=True))
    assert (own_bundle / "model.plan").read_bytes() == b"another plan"
    open_bundle(own_bundle).verify()


def test_a_plan_for_cls_alone_stands_beside_the_whole_one(own_bundle: Path, fake: FakeTensorRT) -> None:
    with pytest.raises(MisuseError, match=r"has no model\.plan.*build that first: dinodeploy build"):
        add_engine(own_bundle, EngineRequest(cls_only=True))
    add_engine(own_bundle, EngineRequest())
    built, notes = add_engine(own_bundle, EngineRequest(cls_only=True))
    assert fake.named("OnnxParser.parse_from_file")[-1] == (str(own_bundle / "model.cls.onnx"),)
    assert (built.file, built.outputs) == ("model.cls.plan", ("cls",))
    assert built.facts.same_numbers_as == "model.plan"
    assert built.facts.build is not None
    assert built.facts.build.source_sha256 == built.manifest.engine_sha256("model.cls.onnx")
    assert "count as one engine" in notes[0]
    with pytest.raises(OutputExistsError, match=r"model\.cls\.plan exists already"):
        add_engine(own_bundle, EngineRequest(cls_only=True))
    add_engine(own_bundle, EngineRequest(overwrite=True))
    after = read_manifest(own_bundle)
    assert after.engines["model.cls.plan"] == built.facts, "the whole plan was replaced, this one stays"
    open_bundle(own_bundle).verify()


def test_a_bundle_without_a_cls_only_graph(own_bundle: Path, fake: FakeTensorRT) -> None:
    manifest = read_manifest(own_bundle)
    engines = {name: facts for name, facts in manifest.engines.items() if facts.same_numbers_as is None}
    write_manifest(replace(manifest, engines=engines), own_bundle)
    with pytest.raises(MisuseError, match=r"--cls-only: .* has no model\.cls\.onnx"):
        add_engine(own_bundle, EngineRequest(cls_only=True))


def test_a_name_may_not_look_like_a_plan_for_cls_alone() -> None:
    with pytest.raises(MisuseError, match=r"--name fast\.cls: names in \.cls are for --cls-only plans"):
        EngineRequest(name="fast.cls")


def test_a_failed_build_leaves_the_bundle_unchanged(own_bundle: Path, fake: FakeTensorRT) -> None:
    add_engine(own_bundle, EngineRequest())
    before = content(own_bundle)
    fake.answer("Builder.build_serialized_network", lambda _, network, config: None)
    with pytest.raises(ExportError):
        add_engine(own_bundle, EngineRequest(overwrite=True))
    assert content(own_bundle) == before


def test_a_full_disk_leaves_a_correct_manifest(
    own_bundle: Path, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the new plan and the new manifest: the old one must not list a plan that is gone."""
    add_engine(own_bundle, EngineRequest())

    @contextmanager
    def full(path: Path) -> Iterator[BinaryIO]:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        with atomic_file(path) as file:
            yield file

    monkeypatch.setattr(module, "atomic_file", full)
    with pytest.raises(OSError, match="No space left"):
        add_engine(own_bundle, EngineRequest(overwrite=True))
    manifest = read_manifest(own_bundle)
    assert "model.plan" not in manifest.engines
    open_bundle(own_bundle).verify()


def test_a_tampered_graph_is_not_parsed(own_bundle: Path, fake: FakeTensorRT) -> None:
    graph = own_bundle / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    with pytest.raises(TamperedError):
        add_engine(own_bundle, EngineRequest())
    assert fake.named("OnnxParser.parse_from_file") == []


@pytest.mark.parametrize("name", ["../out", "", ".hidden", "a/b"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(MisuseError, match="wanted a plain file name"):
        EngineRequest(name=name)


def test_a_version_known_to_be_wrong_is_refused(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT("10.3")
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("NVIDIA", "8.7", "540.4.0"))
    before = content(own_bundle)
    with pytest.raises(
        UnavailableError, match=r"tensorrt 10\.3 is known to be wrong.*issues/4419.*or one --batch and one"
    ):
        add_engine(own_bundle, EngineRequest(target="tensorrt"))
    assert content(own_bundle) == before
    built, _ = add_engine(own_bundle, EngineRequest(target="tensorrt", allow_known_bad=True))
    assert built.facts.build.runtime == "tensorrt 10.3.0"  # type: ignore[union-attr]


def test_a_report_on_free_sizes_is_not_about_one_size(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetPack 6 has TensorRT 10.3."""
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("10.3"))
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("Orin", "8.7", "540.4.0"))
    request = EngineRequest(target="tensorrt", batch=("1",), imgsz=("256",))
    built, _ = add_engine(own_bundle, request)
    assert built.facts.build.compute_capabilities == ("8.7",)  # type: ignore[union-attr]


def test_a_version_compatible_plan_is_inspected_with_its_runtime(
    own_bundle: Path, fake: FakeTensorRT
) -> None:
    add_engine(own_bundle, EngineRequest())
    assert fake.named("Runtime.engine_host_code_allowed") == []
    add_engine(own_bundle, EngineRequest(name="two", options=BuildOptions(version_compatible=True)))
    assert fake.named("Runtime.engine_host_code_allowed") == [(True,)]


@pytest.mark.parametrize("gpu", [None, Gpu("NVIDIA H200", "9.0", "580.65.06")])
def test_rtx_records_its_default_targets(
    gpu: Gpu | None, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody could tell that such a plan does not run on Hopper."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT("11.4", "tensorrt_rtx"))
    monkeypatch.setattr(module, "find_gpu", lambda: gpu)
    built, notes = add_engine(own_bundle, EngineRequest(target="rtx"))
    assert built.facts.build.compute_capabilities == ("8.6", "8.9", "12.0")  # type: ignore[union-attr]
    assert any("will not run on NVIDIA H200" in note for note in notes) == (gpu is not None)


def test_profiles_that_cannot_be_judged_are_not_built(own_bundle: Path, fake: FakeTensorRT) -> None:
    with pytest.raises(MisuseError, match="could never be judged"):
        add_engine(own_bundle, EngineRequest(imgsz=("512",)))
    assert fake.named("Builder") == []
