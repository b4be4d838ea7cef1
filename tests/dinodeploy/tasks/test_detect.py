"""Detections against transformers' image processor, and their way back into the original image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.tasks.detect import detect, predict_one, to_pixels
from dinodeploy.tasks.prediction import PredictOptions
from tests.support.head_facts import head_facts

MEAN = (0.5, 0.5, 0.5)
STRETCHED = Preprocess.from_preset("official", (64, 96), MEAN, MEAN)
HEAD = head_facts("detect", outputs=("logits", "boxes"), classes=("cat", "cup"), settings={"threshold": 0.4})
Q, C = 30, 5


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_equals_transformers(threshold: float) -> None:
    """Among other cases, queries that give several classes, and boxes beyond the image."""
    torch = pytest.importorskip("torch")
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    from transformers import RTDetrImageProcessor

    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((2, Q, C))).astype(np.float32)
    boxes = rng.uniform(-0.1, 1.1, (2, Q, 4)).astype(np.float32)
    sizes = [(120, 90), (33, 700)]
    raw = SimpleNamespace(logits=torch.from_numpy(logits), pred_boxes=torch.from_numpy(boxes))
    shapes = torch.tensor([(h, w) for w, h in sizes])
    wanted = RTDetrImageProcessor().post_process_object_detection(raw, threshold, shapes)
    for image, size in enumerate(sizes):
        found = detect(logits[image], to_pixels(boxes[image], size, STRETCHED), threshold)
        assert found.labels.tolist() == wanted[image]["labels"].tolist()
        np.testing.assert_allclose(found.scores, wanted[image]["scores"].numpy(), atol=1e-6)
        np.testing.assert_allclose(found.boxes, wanted[image]["boxes"].numpy(), atol=1e-4)


def predict(threshold: float | None = None) -> list[tuple[str, float]]:
    logits = np.log(np.array([[1.0, 9.0], [3.0, 1.0]]) / np.array([[9.0, 1.0], [1.0, 1.0]])).astype(
        np.float32
    )
    outputs = {"logits": logits, "boxes": np.full((2, 4), 0.5, np.float32)}
    found = predict_one(outputs, HEAD, (10, 20), STRETCHED, PredictOptions(threshold=threshold))
    assert found.task == "detect"
    assert all(region.box == (2.5, 5.0, 7.5, 15.0) for region in found.regions)
    return [(region.name, round(region.score, 5)) for region in found.regions]


def test_regions_have_names_scores_and_boxes() -> None:
    """Of two queries, the two best pairs: one may give none and another two."""
    assert predict() == [("cup", 0.9), ("cat", 0.75)]
    assert predict(0.76) == [("cup", 0.9)]
    assert predict(0.9001) == []


def test_a_crop_shows_the_middle() -> None:
    """The input shows 160 x 160 pixels in the middle of 320 x 160: half its width is 80 pixels."""
    steps = Preprocess.from_preset("timm", (64, 64), MEAN, MEAN)
    left, top, right, bottom = to_pixels(np.array([[0.5, 0.5, 1.0, 1.0]]), (320, 160), steps)[0]
    assert (left, top, right, bottom) == pytest.approx((80, 0, 240, 160), abs=1.5)


def test_padding_is_left_out() -> None:
    """100 x 50 pixels fill the upper half of a square input."""
    steps = Preprocess.from_preset("pad", (64, 64), MEAN, MEAN)
    boxes = to_pixels(np.array([[0.5, 0.25, 1.0, 0.5]]), (100, 50), steps)
    assert boxes[0].tolist() == [0.0, 0.0, 100.0, 50.0]
