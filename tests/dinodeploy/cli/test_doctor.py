"""`dinodeploy doctor` on simulated machines: output and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy.backends.select import DEVICES
from dinodeploy.bundle.manifest import MODEL_FILE, read_manifest
from dinodeploy.files.json_file import parse_json
from tests.dinodeploy.backends.gpu_machine import DEVICE, add_plan, no_gpu, pretend_gpu, pretend_tensorrt
from tests.support.processes.command_line import CommandLine


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with no_gpu(monkeypatch, tmp_path):
        yield


def test_without_a_bundle(run: CommandLine) -> None:
    ran = run("doctor")
    assert ran.code == 0, ran.out
    assert ran.out.startswith("machine\n")
    assert "none: no NVIDIA driver here" in ran.out
    found = run("doctor", "--json").json
    assert (found["fine"], found["bundle"], found["devices"]) == (True, None, [])
    assert found["packages"]["onnxruntime"]["providers"]


def test_a_bundle_on_a_cpu(tiny_bundle: Path, run: CommandLine) -> None:
    ran = run("doctor", tiny_bundle)
    assert ran.code == 0, ran.out
    assert "auto           model.cpu.onnx by onnxruntime" in ran.out
    assert "cuda           no: " in ran.out
    found = run("doctor", tiny_bundle, "--json").json
    assert [one["device"] for one in found["devices"]] == list(DEVICES)
    assert {one["device"] for one in found["devices"] if one["runs"]} >= {"auto", "cpu"}
    assert all(one["judged"] for one in found["devices"] if one["device"] in ("auto", "cpu"))


def test_an_engine_for_another_machine(own_bundle: Path, run: CommandLine) -> None:
    """Only the plan is examined, and there is no GPU."""
    plan = add_plan(own_bundle, pretend_module())
    ran = run("doctor", plan.path, "--json")
    assert ran.code == 4
    errors = [finding for finding in ran.json["findings"] if finding["level"] == "error"]
    assert "cannot run here: no NVIDIA driver here" in errors[0]["what"]
    assert "go to a machine with a GPU" in errors[0]["fix"]
    assert ran.json["fine"] is False
    assert run("doctor", own_bundle).code == 0, "the bundle has a graph for CPUs"


def pretend_module() -> object:
    """A TensorRT to name in build facts; it is not installed here."""
    with pytest.MonkeyPatch.context() as patch:
        return pretend_tensorrt(patch)


def test_a_gpu_with_the_plans_tensorrt(
    own_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_gpu(monkeypatch, tmp_path)
    add_plan(own_bundle, pretend_tensorrt(monkeypatch))
    ran = run("doctor", own_bundle, "--json")
    assert ran.code == 0
    auto = ran.json["devices"][0]
    assert (auto["engine"], auto["runtime"], auto["runs_on"]) == ("model.plan", "tensorrt 10.3.0", DEVICE)
    links = [finding["link"][-4:] for finding in ran.json["findings"] if "issues" in finding["link"]]
    assert links == ["4419", "4419"], "one of the plan and one of the installed TensorRT; none of fp16"
    (note,) = (finding for finding in ran.json["findings"] if finding["level"] == "note")
    assert note["fix"] == f"dinodeploy check {own_bundle}"


def test_a_plan_for_another_gpu_leaves_this_one_unused(
    own_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_gpu(monkeypatch, tmp_path)
    add_plan(own_bundle, pretend_tensorrt(monkeypatch, "11.4"), compute_capabilities=("9.0",))
    ran = run("doctor", own_bundle, "--json")
    assert ran.code == 0
    unused = [finding for finding in ran.json["findings"] if "is not used" in finding["what"]]
    assert "built for compute capability 9.0, NVIDIA L4 has 8.9" in unused[0]["what"]
    assert unused[0]["fix"] == f"build it here: dinodeploy build {own_bundle} --target tensorrt --overwrite"


def test_a_damaged_bundle_does_not_run(own_bundle: Path, run: CommandLine) -> None:
    content = (own_bundle / MODEL_FILE).read_bytes()
    (own_bundle / MODEL_FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ran = run("doctor", own_bundle, "--json")
    assert ran.code == 4
    (error,) = (finding for finding in ran.json["findings"] if finding["level"] == "error")
    assert "is not the file that was exported" in error["what"]
    assert error["fix"] == "copy or export it again"


def test_paths_that_are_no_bundle(tmp_path: Path, run: CommandLine) -> None:
    ran = run("doctor", tmp_path / "nothing")
    assert (ran.code, ran.out) == (2, "")
    assert "no such bundle" in ran.error
    ran = run("doctor", tmp_path)
    assert ran.code == 2
    assert "is in no bundle" in ran.error


def test_examining_changes_nothing(own_bundle: Path, run: CommandLine) -> None:
    (own_bundle / "parity.json").unlink(missing_ok=True)
    before = {path.name: path.stat().st_mtime_ns for path in own_bundle.iterdir()}
    assert run("doctor", own_bundle).code == 0
    assert {path.name: path.stat().st_mtime_ns for path in own_bundle.iterdir()} == before


def test_an_unknown_backend(own_bundle: Path, run: CommandLine) -> None:
    """A manifest of a later version may name an unknown backend: a finding, not a traceback."""
    from dataclasses import replace

    from dinodeploy.bundle.manifest import EngineFacts, write_manifest

    manifest = read_manifest(own_bundle)
    engines = {MODEL_FILE: EngineFacts("quantum", (MODEL_FILE, f"{MODEL_FILE}.data"))}
    write_manifest(replace(manifest, engines=engines, preference=(MODEL_FILE,)), own_bundle)
    ran = run("doctor", own_bundle, "--json")
    assert ran.code == 4
    assert any("needs the backend 'quantum'" in finding["what"] for finding in ran.json["findings"])


def test_json_output_with_a_broken_runtime(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it could not be imported
    ran = run("doctor", "--json")
    found = json.loads(ran.out)
    assert found["packages"]["onnxruntime"]["broken"]
    assert parse_json(ran.out, "doctor", "report") == found
