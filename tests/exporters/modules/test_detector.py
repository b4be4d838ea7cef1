"""A DEIMv2 detector becomes one judged bundle that runs at any size, in fp32 and fp16."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from dinodeploy import Embedder, MisuseError
from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.cli.app import main
from dinodeploy.parity.detections import measure_detections
from dinov3_ref.tasks import LoadedTask
from exporters.bundle.options import ExportOptions
from exporters.modules import export_task
from tests.support.detectors import CLASSES, TINY, load_detector, make_detector, save_detector

SIZES = ((96, 160), (160, 64))
FORBIDDEN = {"NonZero", "If", "Loop", "Scan", "ScatterND", "Tile"}
SHALLOWEST = {"depth_mult": 0.1}  # no blocks in the fusion layers: a third of the tracing time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with massive activations in its backbone."""
    return save_detector(make_detector(TINY, planted=True, **SHALLOWEST), tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedTask:
    return load_detector(folder)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    """The bundle that the command makes, and what it prints."""
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    arguments = ["dinodeploy", "export", "--weights", str(folder), "--precision", "fp32", "--out", str(out)]
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as printed,
    ):
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return open_bundle(out), printed.getvalue()


@pytest.fixture(scope="module")
def bundle(exported: tuple[Bundle, str]) -> Bundle:
    return exported[0]


def test_the_command_says_what_was_judged(exported: tuple[Bundle, str]) -> None:
    assert "head: deimv2" in exported[1]
    assert "passed, box IoU 1" in exported[1]


def run_at(loaded: LoadedTask, size: tuple[int, int]) -> tuple[Tensor, dict[str, FloatArray]]:
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        made = loaded.model(pixels)
    return pixels, {name: made[i].numpy() for i, name in enumerate(loaded.model.outputs)}


def measured(
    bundle: Bundle, got: Mapping[str, FloatArray], wanted: Mapping[str, FloatArray]
) -> dict[str, float]:
    assert bundle.manifest.head is not None
    by_output = measure_detections(got, wanted, bundle.manifest.head)
    return {name: value for values in by_output.values() for name, value in values.items()}


def test_the_manifest_says_what_predict_needs(bundle: Bundle) -> None:
    head = bundle.manifest.head
    assert head is not None
    assert (head.task, head.kind, head.classes) == ("detect", "deimv2", CLASSES)
    assert head.settings == {"threshold": 0.5, "least_side": 48}
    shapes = {output.name: output.shape for output in bundle.manifest.outputs}
    assert shapes == {"logits": ("batch", 40, 5), "boxes": ("batch", 40, 4), "positions": ("batch", 40)}


def test_operators_are_those_that_every_runtime_has(bundle: Bundle) -> None:
    graph = onnx.load(bundle.root / "model.onnx", load_external_data=False).graph
    found = {node.op_type for node in graph.node}
    assert {"GridSample", "TopK"} <= found
    assert not found & FORBIDDEN
    assert {node.domain for node in graph.node} == {""}


@pytest.mark.parametrize("device", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_runs_at_other_sizes(loaded: LoadedTask, bundle: Bundle, device: str) -> None:
    with Embedder.open(bundle.root, device=device) as embedder:
        for size in SIZES:
            pixels, wanted = run_at(loaded, size)
            values = measured(bundle, embedder.run(pixels.numpy()), wanted)
            assert values["queries_changed"] <= 0.005
            assert max(values["score_error"], values["box_error"]) < 1e-4  # measured 7e-6


def test_an_image_with_too_few_places_is_refused(bundle: Bundle) -> None:
    with (
        Embedder.open(bundle.root, device="onnxruntime") as embedder,
        pytest.raises(MisuseError, match="32x96; this model takes 48 or more on both sides"),
    ):
        embedder.run(np.zeros((1, 3, 32, 96), np.float32))


@pytest.mark.slow
def test_fp16_finds_the_same_boxes_and_tensorrt_builds_it(loaded: LoadedTask, tmp_path: Path) -> None:
    bundle, _ = export_task(loaded, tmp_path / "bundle", ExportOptions(recipe="fp16"))
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    for device in ("onnxruntime", "openvino"):
        with Embedder.open(bundle.root, device=device, allow_unverified=True) as embedder:
            pixels, wanted = run_at(loaded, SIZES[0])
            values = measured(bundle, embedder.run(pixels.numpy()), wanted)
        assert values["box_iou"] > 0.99, device  # measured 0.997
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
    from exporters.tensorrt.add_engine import EngineRequest, add_engine

    add_engine(bundle.root, EngineRequest(target="rtx", profile="edge", name="rtx"))
    network = json.loads((bundle.root / "rtx.plan.json").read_text())["network"]
    assert {value["name"] for value in network["outputs"]} == {"logits", "boxes", "positions"}
    assert set(network["layers"]["GRID_SAMPLE"]) == {"FLOAT"}
    assert "HALF" in network["layers"]["MATRIX_MULTIPLY"]
