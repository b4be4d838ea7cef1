"""No package reports to its maker, unless the user has turned it on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dinodeploy.hardware import telemetry
from dinodeploy.standalone.pack import pack_standalone
from tests.support.processes.alone import run_alone
from tests.support.processes.kill_runner import ROOT

PHOTO = ROOT / "exporters/photos/chelsea.jpg"

EMBEDDER = """
import sys, dinodeploy
with dinodeploy.Embedder.open(sys.argv[1], device=sys.argv[2]) as embedder:
    embedder.encode(sys.argv[3])
"""
WORKER = """
import multiprocessing, os, sys
import dinodeploy

def look(queue):
    queue.put(os.environ["ORT_DISABLE_TELEMETRY"])

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=look, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == "1"
    process.join()
"""
SERVICE = """
import sys
from tests.support.processes.service_process import serving

with serving(sys.argv[1]) as process:
    assert process.embed().status_code == 200
"""
NNCF = """
from exporters.peers.runners import NncfRunner
from dinodeploy.backends.openvino import shared_core
shared_core()
import nncf
"""


@pytest.mark.parametrize("device", ["onnxruntime", "openvino"])
def test_the_library_writes_no_identifier_and_looks_up_no_host(
    device: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    ran = run_alone(tmp_path, "-c", EMBEDDER, tiny_bundle, device, PHOTO, trace=True)
    assert (ran.code, ran.home, ran.looked_up) == (0, [], []), ran.output


COMMANDS = {
    "embed": ("embed", PHOTO, "--engine", "BUNDLE", "--out", "out", "--device", "onnxruntime"),
    "embed with OpenVINO": ("embed", PHOTO, "--engine", "BUNDLE", "--out", "out", "--device", "openvino"),
    "check": ("check", "BUNDLE"),
    "doctor": ("doctor", "BUNDLE"),
    "inspect": ("inspect", "BUNDLE"),
    "bench": ("bench", "BUNDLE", "--imgsz", "64", "--rounds", "1", "--batch", "1"),
    "visualize": ("visualize", PHOTO, "--engine", "BUNDLE", "--out", "out"),
    "help": ("--help",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_no_command_writes_an_identifier_or_looks_up_a_host(
    command: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    arguments = [tiny_bundle if word == "BUNDLE" else word for word in COMMANDS[command]]
    ran = run_alone(tmp_path, "-m", "dinodeploy", *arguments, trace=True)
    assert (ran.code, ran.home, ran.looked_up) == (0, [], []), ran.output


def test_the_standalone_file_writes_no_identifier(tiny_bundle: Path, tmp_path: Path) -> None:
    application = pack_standalone(tiny_bundle, tmp_path / "model.pyz")
    cache = str(tmp_path / "cache")
    ran = run_alone(tmp_path, application, "embed", PHOTO, "--out", "out", trace=True, XDG_CACHE_HOME=cache)
    assert (ran.code, ran.home, ran.looked_up) == (0, [], []), ran.output


@pytest.mark.slow
def test_training_looks_up_no_host(tmp_path: Path) -> None:
    ran = run_alone(tmp_path, "-m", "dinov3_ref.train", "--help", trace=True)
    assert (ran.code, ran.home, ran.looked_up) == (0, [], []), ran.output


@pytest.mark.slow
def test_a_service_and_its_decoders_write_no_identifier(tiny_bundle: Path, tmp_path: Path) -> None:
    ran = run_alone(tmp_path, "-c", SERVICE, tiny_bundle, trace=True)
    assert (ran.code, ran.home, ran.looked_up) == (0, [], []), ran.output


@pytest.mark.slow
def test_an_export_writes_no_identifier(tmp_path: Path) -> None:
    options = ("--weights", ROOT / "examples/models/toy_vit", "--imgsz", "64", "--out", "bundle")
    ran = run_alone(tmp_path, "-m", "dinodeploy", "export", *options, trace=True)
    assert (ran.code, ran.home, ran.looked_up) == (0, [], []), ran.output


@pytest.mark.slow
def test_nncf_reports_nothing(tmp_path: Path) -> None:
    ran = run_alone(tmp_path, "-c", NNCF, trace=True)
    assert (ran.code, ran.home, ran.looked_up) == (0, [], []), ran.output


def test_started_processes_inherit_it(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    ran = run_alone(tmp_path, tmp_path / "worker.py")
    assert ran.code == 0, ran.output


@pytest.mark.parametrize("package", ["dinodeploy", "exporters", "dinov3_ref"])
def test_each_package_sets_the_variables_and_keeps_the_users(package: str, tmp_path: Path) -> None:
    names = ["HF_HUB_DISABLE_TELEMETRY"] + ["ORT_DISABLE_TELEMETRY"] * (package != "dinov3_ref")
    code = f"import os, {package}; print(*(os.environ[name] for name in {names}))"
    assert set(run_alone(tmp_path, "-c", code).output.split()) == {"1"}
    (tmp_path / "home").rmdir()
    own = dict.fromkeys(names, "0")
    assert set(run_alone(tmp_path, "-c", code, **own).output.split()) == {"0"}


@pytest.mark.parametrize(("variable", "calls"), [("1", 1), ("0", 0)])
def test_onnxruntime_is_also_told_by_its_own_function(
    variable: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows's event tracing reads no variable."""
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", variable)
    called: list[int] = []
    module = ModuleType("onnxruntime")
    module.disable_telemetry_events = lambda: called.append(1)  # type: ignore[attr-defined]
    telemetry.silence_onnxruntime(module)
    assert len(called) == calls


@pytest.mark.parametrize(("consent", "hidden"), [(None, True), ("0", True), ("", True), ("1\n", False)])
def test_consent_given_to_openvino_counts(
    consent: str | None, hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if consent is not None:
        (tmp_path / "intel").mkdir()
        (tmp_path / "intel" / "openvino_telemetry").write_text(consent)
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    telemetry.silence_openvino()
    assert ("openvino_telemetry" in sys.modules) is hidden
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)  # as it is undone afterwards


@pytest.mark.parametrize(
    ("config", "variable"),
    [(None, "0"), ({"usage_stats": False}, "0"), ({"usage_stats": True}, None), ("{", "0"), ([], "0")],
)
def test_consent_given_to_ray_counts(
    config: object, variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_USAGE_STATS_CONFIG_PATH", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    (tmp_path / ".ray").mkdir()
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / ".ray/config.json").write_text(text)
    with monkeypatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "x")
        patch.delenv("RAY_USAGE_STATS_ENABLED")
        telemetry.silence_ray()
        assert os.environ.pop("RAY_USAGE_STATS_ENABLED", None) == variable


def test_a_machine_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    telemetry.silence_openvino()
    assert sys.modules["openvino_telemetry"] is None
