"""Post-processing against transformers' `EomtImageProcessor`, on the same raw outputs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.images.windows import Windows
from dinodeploy.tasks.panoptic import CLASS_LOGITS, MASK_LOGITS, predict_one
from dinodeploy.tasks.predict import predictor_of
from dinodeploy.tasks.prediction import Prediction, PredictOptions

SIDE, QUERIES, NAMES = 128, 40, ("person", "bicycle", "car", "sky", "road")
MEAN, STD = (0.5,) * 3, (0.25,) * 3
PAD = Preprocess.from_preset("pad", (SIDE, SIDE), MEAN, STD)
WHOLE = Preprocess.from_preset("official", (SIDE, SIDE), MEAN, STD)
SETTINGS = {
    "task": "panoptic",
    "mask_stride": 4,
    "threshold": 0.8,
    "mask_threshold": 0.5,
    "overlap_mask_area_threshold": 0.8,
    "stuff_classes": [3, 4],
}
HEAD = HeadFacts(
    task="panoptic",
    kind="eomt",
    inputs=(),
    outputs=(CLASS_LOGITS, MASK_LOGITS),
    classes=NAMES,
    source="model",
    sha256="0" * 64,
    licence="not stated",
    settings=SETTINGS,
)
# width, height of the image; the last two fit the input after rounding, and not quite
SIZES = [(200, 150), (97, 333), (128, 128), (60, 128), (131, 59), (300, 300), (129, 40)]


def raw_outputs(seed: int, windows: int = 1, level: float = -11) -> dict[str, FloatArray]:
    """Class logits [n,Q,C+1] and mask logits [n,Q,h,w] of blobs; the higher the level, the larger."""
    rng = np.random.default_rng(seed)
    classes = 4 * rng.normal(size=(windows, QUERIES, len(NAMES) + 1))
    coarse = torch.from_numpy(6 * rng.normal(size=(windows, QUERIES, 7, 7)) + level)
    masks = F.interpolate(coarse, size=(SIDE // 4, SIDE // 4), mode="bicubic").numpy()
    masks += 0.3 * rng.normal(size=masks.shape)
    return {CLASS_LOGITS: classes.astype(np.float32), MASK_LOGITS: masks.astype(np.float32)}


def of_image(outputs: dict[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: array[0] for name, array in outputs.items()}


@pytest.fixture(scope="module")
def processor() -> Any:
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    from transformers import EomtImageProcessor

    return EomtImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE}, do_pad=True)


def as_transformers(outputs: dict[str, FloatArray], offsets: Any = None) -> SimpleNamespace:
    return SimpleNamespace(
        class_queries_logits=torch.from_numpy(outputs[CLASS_LOGITS]),
        masks_queries_logits=torch.from_numpy(outputs[MASK_LOGITS]),
        patch_offsets=offsets,
    )


def compare(found: Prediction, wanted: dict[str, Any]) -> None:
    """Same segments in the same order; every pixel of the map."""
    info = wanted["segments_info"]
    assert [(region.id - 1, region.label) for region in found.regions] == [
        (one["id"], one["label_id"]) for one in info
    ]
    assert np.allclose([r.score for r in found.regions], [one["score"] for one in info], rtol=0, atol=1e-5)
    assert found.map is not None
    assert np.mean(found.map - 1 != wanted["segmentation"].numpy()) <= 1e-4  # measured 0


@pytest.mark.parametrize("size", SIZES)
def test_panoptic_equals_transformers(processor: Any, size: tuple[int, int]) -> None:
    outputs = raw_outputs(1)
    for stuff in ([], [3, 4]):
        head = replace(HEAD, settings={**SETTINGS, "stuff_classes": stuff})
        found = predict_one(of_image(outputs), head, size, PAD, PredictOptions())
        raw = as_transformers(outputs)
        (wanted,) = processor.post_process_panoptic_segmentation(raw, [size[::-1]], stuff_classes=stuff)
        compare(found, wanted)
        assert len(found.regions) > 4
        assert {region.thing for region in found.regions} == ({True, False} if stuff else {True})


def test_segments_that_lost_too_much_are_dropped_as_by_transformers(processor: Any) -> None:
    outputs = raw_outputs(1, level=-7)
    found = {}
    for overlap in (0.0, 0.8):
        head = replace(HEAD, settings={**SETTINGS, "overlap_mask_area_threshold": overlap})
        found[overlap] = predict_one(of_image(outputs), head, (200, 150), PAD, PredictOptions())
        (wanted,) = processor.post_process_panoptic_segmentation(
            as_transformers(outputs), [(150, 200)], stuff_classes=[3, 4], overlap_mask_area_threshold=overlap
        )
        compare(found[overlap], wanted)
    assert len(found[0.0].regions) > len(found[0.8].regions) > 0


def test_stuff_of_one_class_is_one_segment() -> None:
    outputs = of_image(raw_outputs(1))
    kinds = {
        len(stuff): predict_one(
            outputs,
            replace(HEAD, settings={**SETTINGS, "stuff_classes": stuff}),
            (200, 150),
            PAD,
            PredictOptions(),
        )
        for stuff in ([], list(range(5)))
    }
    assert len({region.label for region in kinds[5].regions}) == len(kinds[5].regions) < len(kinds[0].regions)
    assert np.array_equal(kinds[5].map > 0, kinds[0].map > 0)  # type: ignore[operator]


@pytest.mark.parametrize("size", SIZES)
def test_instances_equal_transformers(processor: Any, size: tuple[int, int]) -> None:
    outputs = raw_outputs(2)
    options = PredictOptions("instance", threshold=0.6)
    found = predict_one(of_image(outputs), HEAD, size, PAD, options)
    (wanted,) = processor.post_process_instance_segmentation(
        as_transformers(outputs), [size[::-1]], threshold=0.6
    )
    compare(found, wanted)
    assert len(found.regions) > 4
    assert all(region.thing for region in found.regions)


def test_masks_that_overlap_are_kept_whole(processor: Any) -> None:
    """A region without a mask of its own is its id in the map; a box encloses the mask."""
    outputs = raw_outputs(2)
    found = predict_one(of_image(outputs), HEAD, (200, 150), PAD, PredictOptions("instance", threshold=0.6))
    assert found.map is not None
    covered = [region for region in found.regions if region.mask is not None]
    assert 0 < len(covered) < len(found.regions)
    for region in found.regions:
        mask = found.map == region.id if region.mask is None else region.mask
        rows, columns = np.nonzero(mask)
        assert region.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert region.name == NAMES[region.label]


@pytest.mark.parametrize("size", SIZES)
def test_semantic_equals_transformers(processor: Any, size: tuple[int, int]) -> None:
    outputs = raw_outputs(3)
    found = predict_one(of_image(outputs), HEAD, size, WHOLE, PredictOptions("semantic"))
    raw = as_transformers(outputs)
    (wanted,) = processor.post_process_semantic_segmentation(raw, [size[::-1]])
    assert found.task == "segment"
    assert np.mean(found.map != wanted.numpy()) <= 1e-4  # measured 0
    assert sum(found.facts["shares"].values()) == pytest.approx(1)


@pytest.mark.parametrize("size", SIZES)
def test_semantic_windows_equal_transformers(processor: Any, size: tuple[int, int]) -> None:
    windows = Windows.of(WHOLE)
    starts = windows.starts(*size)
    outputs = raw_outputs(4, len(starts))
    offsets = [(0, start, start + SIDE) for start in starts]
    found = predict_one(outputs, HEAD, size, windows, PredictOptions("semantic"))
    edges = {"shortest_edge": SIDE, "longest_edge": None}
    raw = as_transformers(outputs, offsets)
    (wanted,) = processor.post_process_semantic_segmentation(raw, [size[::-1]], size=edges)
    assert np.mean(found.map != wanted.numpy()) <= 1e-4  # measured 0


def test_nothing_found() -> None:
    outputs = of_image(raw_outputs(1))
    outputs[CLASS_LOGITS][:, -1] = 50  # "no object"
    for task in ("panoptic", "instance"):
        found = predict_one(outputs, HEAD, (20, 10), PAD, PredictOptions(task))
        assert found.regions == ()
        assert found.map is not None
        assert found.map.shape == (10, 20)
        assert not found.map.any()


def test_what_the_input_did_not_show_has_no_class() -> None:
    """A centre crop shows the middle of a wide image."""
    crop = Preprocess.from_preset("timm", (SIDE, SIDE), MEAN, STD)
    outputs = of_image(raw_outputs(1))
    found = predict_one(outputs, HEAD, (300, 100), crop, PredictOptions("semantic"))
    assert found.map is not None
    assert set(found.map[:, :100].ravel()) == {255}
    assert 255 not in found.map[:, 101:199]
    regions = predict_one(outputs, HEAD, (300, 100), crop, PredictOptions()).regions
    assert regions
    assert min(region.box[0] for region in regions if region.box) >= 100


@pytest.mark.parametrize(
    ("task", "split", "wanted", "windows"),
    [
        (None, True, "segment", True),
        ("semantic", True, "segment", True),
        ("panoptic", True, "panoptic", False),
        ("semantic", False, "segment", False),
        ("instance", False, "instance", False),
    ],
)
def test_what_a_model_predicts(task: str | None, split: bool, wanted: str, windows: bool) -> None:
    trained = {**SETTINGS, "split": split, "task": "semantic" if split else "panoptic"}
    found = predictor_of(replace(HEAD, settings=trained), WHOLE, PredictOptions(task))
    assert (found.task, found.windows is not None) == (wanted, windows)
    assert found.classes == NAMES


def test_semantic_segmentation_has_no_threshold() -> None:
    with pytest.raises(MisuseError, match="--threshold is for instance and panoptic segmentation"):
        predictor_of(HEAD, WHOLE, PredictOptions("semantic", threshold=0.5))


def test_windows_give_no_segments() -> None:
    outputs = raw_outputs(1, 2)
    with pytest.raises(MisuseError, match="--task instance needs the whole image in one input"):
        predict_one(outputs, HEAD, (200, 100), Windows.of(WHOLE), PredictOptions("instance"))
