"""EoMT from a folder of transformers to judged bundles: recipes, runtimes, the whole way to segments.

Tiny models by default; the widths of ViT-S and ViT-L, a few blocks deep, are marked slow.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dinodeploy
from dinodeploy import Embedder
from dinodeploy.bundle.bundle import Bundle
from dinodeploy.parity.measurement import Verdict
from exporters.bundle.golden import load_photo
from exporters.bundle.options import ExportOptions
from exporters.modules import export_task
from exporters.tensorrt.add_engine import EngineRequest, add_engine
from tests.support.eomt_models import load_folder, plant, run_at, save_eomt, transformers_eomt

TINY = {"num_hidden_layers": 3, "num_blocks": 1}
SMALL = {**TINY, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_queries": 100}
LARGE = {**SMALL, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
SIZES = [(128, 128), (96, 160), (208, 64)]
OVERLAP = "overlap_mask_area_threshold"  # low in the file: masks of random weights overlap
Made = tuple[torch.nn.Module, Bundle]


def make(folder: Path, recipe: str, shape: dict[str, Any], *, masked: bool, planted: bool) -> Made:
    """transformers' model, and the bundle of its folder."""
    model = transformers_eomt((float(masked),), **shape)
    if planted:
        plant(model)
    loaded = load_folder(save_eomt(model, folder / "model", {OVERLAP: 0.1}))
    bundle, _ = export_task(loaded, folder / "bundle", ExportOptions(recipe=recipe))
    return model, bundle


def worst_iou(bundle: Bundle) -> float:
    assert bundle.receipt is not None
    found = Verdict(bundle.receipt.recipe, bundle.receipt.measurements).worst("mask_iou")
    assert found is not None
    return found


def largest_error(made: Made, device: str) -> float:
    """Relative error of raw outputs against transformers' module, the worst of outputs and sizes."""
    model, bundle = made
    errors = []
    with Embedder.open(bundle.root, device=device, allow_unverified=True) as engine:
        for height, width in SIZES:
            pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(width))
            found = engine.run(pixels.numpy())
            for name, wanted in zip(("class_logits", "mask_logits"), run_at(model, pixels), strict=True):
                errors.append(np.linalg.norm(found[name] - wanted.numpy()) / np.linalg.norm(wanted))
    return float(max(errors))


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """fp32, with masked attention."""
    return make(tmp_path_factory.mktemp("lively"), "fp32", TINY, masked=True, planted=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """fp16, with masked attention and massive activations."""
    return make(tmp_path_factory.mktemp("planted"), "fp16", TINY, masked=True, planted=True)


@pytest.mark.parametrize("device", ["onnxruntime", "openvino"])
def test_raw_outputs_equal_those_of_transformers(lively: Made, device: str) -> None:
    """Measured: 1.1e-6."""
    assert largest_error(lively, device) < 1e-5


def test_the_manifest_says_what_predict_needs(lively: Made) -> None:
    manifest = lively[1].manifest
    assert manifest.head is not None
    assert (manifest.head.task, manifest.head.kind) == ("panoptic", "eomt")
    assert manifest.head.classes == ("person", "bicycle", "car", "sky", "road")
    assert manifest.head.settings["mask_stride"] == 4
    assert (manifest.preprocess.preset, manifest.preprocess.height) == ("pad", 128)
    assert manifest.graph.fixed == ()


def test_masks_stay_right_in_fp16_on_massive_activations(planted: Made) -> None:
    """Measured: 0.9967."""
    assert worst_iou(planted[1]) >= 0.99


def test_tensorrt_rtx_builds_the_masked_graph(planted: Made) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
    built, _ = add_engine(planted[1].root, EngineRequest(target="rtx", name="eomt"))
    assert (built.root / "eomt.plan").stat().st_size > 0


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_predict_equals_transformers_from_the_photograph_on(lively: Made, tmp_path: Path, task: str) -> None:
    """The same image through transformers' processor, model and post-processing.

    Of semantic segmentation with a square: transformers stretches the padding of others over the image too.
    """
    from transformers import EomtImageProcessor

    model, bundle = lively
    image = Image.fromarray(load_photo("coffee"))
    if task == "semantic":
        image = image.crop((0, 0, min(image.size), min(image.size)))
    image.save(tmp_path / "photo.png")
    processor = EomtImageProcessor(size={"shortest_edge": 128, "longest_edge": 128}, do_pad=True)
    classes, masks = run_at(model, processor(image, return_tensors="pt")["pixel_values"])
    outputs = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks, patch_offsets=None)
    options = {} if task == "semantic" else {"threshold": 0.2}
    of_file = {OVERLAP: 0.1} if task == "panoptic" else {}
    post_process = getattr(processor, f"post_process_{task}_segmentation")
    (wanted,) = post_process(outputs, target_sizes=[image.size[::-1]], **options, **of_file)
    out = tmp_path / "out"
    (row,) = dinodeploy.predict(
        [tmp_path / "photo.png"], engine=bundle.root, task=task, out=out, **options
    ).rows
    if task == "semantic":
        with Image.open(out / row["mask"]) as found:
            assert np.mean(np.asarray(found) != wanted.numpy()) < 1e-2  # pixels differ by a grey level
        return
    segments = wanted["segments_info"]
    assert len(segments) > 0
    assert [region["label"] for region in row["regions"]] == [one["label_id"] for one in segments]
    scores = [region["score"] for region in row["regions"]]
    # measured 2.5e-3: a pixel of one grey level moves a patch across the edge of a mask
    assert np.allclose(scores, [one["score"] for one in segments], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "recipe", "least"), [(SMALL, "int8", 0.95), (LARGE, "fp16", 0.99)])
def test_true_widths_on_massive_activations(
    tmp_path: Path, shape: dict[str, Any], recipe: str, least: float
) -> None:
    """Measured: 0.967, 0.9987."""
    assert worst_iou(make(tmp_path, recipe, shape, masked=True, planted=True)[1]) >= least


@pytest.mark.slow
def test_true_width_in_fp32(tmp_path: Path) -> None:
    """Measured: 1.3e-6; at the width of ViT-L 1.5e-6."""
    assert largest_error(make(tmp_path, "fp32", SMALL, masked=True, planted=False), "onnxruntime") < 1e-5
