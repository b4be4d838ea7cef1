"""A whole model becomes a judged bundle that runs at any size, without backbone outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinodeploy import Embedder
from dinodeploy.bundle.bundle import Bundle
from exporters.bundle.options import ExportOptions
from exporters.modules import export_task
from tests.support.whole_models import CLASSES, TinySegmenter, tiny_task

LIMIT = 1e-5  # measured 2.6e-7


@pytest.fixture(scope="module")
def task_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_task(tiny_task(), tmp_path_factory.mktemp("task") / "bundle", ExportOptions())[0]


def test_the_manifest_says_what_it_is(task_bundle: Bundle) -> None:
    head, graph = task_bundle.manifest.head, task_bundle.manifest.graph
    assert head is not None
    assert (head.task, head.classes, head.settings) == ("segment", CLASSES, {"ignored": 255})
    assert [output.name for output in task_bundle.manifest.outputs] == ["segmentation"]
    assert graph.backbones == ("backbone",)


@pytest.mark.parametrize("device", ["onnxruntime", "openvino"])
def test_it_runs_at_other_sizes(task_bundle: Bundle, device: str) -> None:
    pixels = torch.randn(3, 3, 80, 112, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (wanted,) = TinySegmenter().eval()(pixels)
    with Embedder.open(task_bundle.root, device=device) as embedder:
        got = embedder.run(pixels.numpy())["segmentation"]
    assert got.shape == (3, len(CLASSES), 80, 112)
    error = np.linalg.norm(got - wanted.numpy()) / np.linalg.norm(wanted.numpy())
    assert error < LIMIT


def test_its_receipt_is_found_again(task_bundle: Bundle) -> None:
    assert task_bundle.receipt is not None
    with Embedder.open(task_bundle.root, device="onnxruntime") as embedder:
        assert embedder.receipt == task_bundle.receipt
