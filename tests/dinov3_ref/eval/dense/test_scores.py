"""Scores against numpy in float64, scikit-learn, and numbers worked out by hand (docs/spec.md 5.4, 5.6)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from dinov3_ref.errors import DataError
from dinov3_ref.eval.dense.scores import Confusion, DepthErrors, crop_mask, depth_errors


def test_segmentation_by_hand() -> None:
    """Class 0: 3 pixels, 2 right, 3 predicted: IoU 2/4. Class 1: 2 pixels, 1 right, 2 predicted: IoU 1/3.
    Class 2 never occurs and is not predicted: left out."""
    truth = torch.tensor([[0, 0, 0, 255], [1, 1, 255, 255]])
    chosen = torch.tensor([[0, 0, 1, 2], [1, 0, 0, 1]])
    confusion = Confusion(3)
    confusion.add(chosen, truth)
    assert confusion.scores() == pytest.approx(
        {"mIoU": 100 * (1 / 2 + 1 / 3) / 2, "mAcc": 100 * (2 / 3 + 1 / 2) / 2, "aAcc": 60.0}
    )


def test_segmentation_over_images_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    confusion, truths, chosens = Confusion(5), [], []
    for _ in range(3):
        truth = rng.integers(0, 4, (20, 30))
        chosen = np.where(rng.random((20, 30)) < 0.6, truth, rng.integers(0, 4, (20, 30)))
        truth[rng.random((20, 30)) < 0.1] = 255
        confusion.add(torch.tensor(chosen), torch.tensor(truth))
        truths.append(truth[truth != 255])
        chosens.append(chosen[truth != 255])
    y, z = np.concatenate(truths), np.concatenate(chosens)
    assert confusion.scores() == pytest.approx(
        {
            "mIoU": 100 * jaccard_score(y, z, average="macro"),
            "mAcc": 100 * recall_score(y, z, average="macro"),
            "aAcc": 100 * accuracy_score(y, z),
        }
    )


def test_an_id_that_is_no_class() -> None:
    with pytest.raises(DataError, match="class id 7; wanted 0 to 4, or 255"):
        Confusion(5).add(torch.tensor([[0]]), torch.tensor([[7]]))


def test_depth_is_that_of_the_formulas() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9, 500)
    depth = truth * np.exp(rng.normal(0.1, 0.3, 500))
    found = depth_errors(torch.tensor(depth), torch.tensor(truth))
    ratio = np.maximum(depth / truth, truth / depth)
    logs = np.log(depth) - np.log(truth)
    expected = {
        "rmse": np.sqrt(np.mean((depth - truth) ** 2)),
        "abs_rel": np.mean(abs(depth - truth) / truth),
        "log_10": np.mean(abs(np.log10(depth) - np.log10(truth))),
        "a1": np.mean(ratio < 1.25),
        "a2": np.mean(ratio < 1.5625),
        "a3": np.mean(ratio < 1.953125),
        "rmse_log": np.sqrt(np.mean(logs**2)),
        "silog": 100 * np.sqrt(np.mean(logs**2) - np.mean(logs) ** 2),
        "sq_rel": np.mean((depth - truth) ** 2 / truth),
        "mae": np.mean(abs(depth - truth)),
    }
    assert found == pytest.approx(expected)


def test_depth_is_averaged_over_images_inside_the_range() -> None:
    """2 m for 1 m, then 3 m for 4 m; 0 and 12 m do not count, and a prediction of 20 m counts as 10 m."""
    errors = DepthErrors(0.001, 10.0, "none")
    errors.add(torch.full((1, 3), 2.0), torch.tensor([[1.0, 0.0, 12.0]]))
    errors.add(torch.tensor([[3.0, 20.0]]), torch.tensor([[4.0, 0.0]]))
    errors.add(torch.ones(1, 2), torch.zeros(1, 2))  # nothing is known: not counted
    assert errors.scores()["rmse"] == pytest.approx(1.0)
    assert errors.scores()["abs_rel"] == pytest.approx((1.0 + 0.25) / 2)
    errors.add(torch.tensor([[20.0]]), torch.tensor([[9.0]]))
    assert errors.images[-1]["mae"] == pytest.approx(1.0)
    with pytest.raises(DataError, match="no pixel has a depth between"):
        DepthErrors(0.001, 10.0).scores()


@pytest.mark.parametrize(
    ("crop", "size", "inside"),
    [
        ("eigen", (480, 640), (45, 471, 41, 601)),
        ("eigen", (240, 320), (22, 235, 20, 300)),
        ("garg", (375, 1242), (153, 371, 44, 1197)),
        ("none", (4, 5), (0, 4, 0, 5)),
    ],
)
def test_crops(crop: str, size: tuple[int, int], inside: tuple[int, int, int, int]) -> None:
    expected = torch.zeros(size, dtype=torch.bool)
    top, bottom, left, right = inside
    expected[top:bottom, left:right] = True
    assert torch.equal(crop_mask(torch.zeros(size), crop), expected)
