"""The outputs that are computed from the engine's."""

from __future__ import annotations

import numpy as np

from dinodeploy.pipeline.pooling import mean_patch, pick, with_pooled

RNG = np.random.default_rng(0)
OUTPUTS = {
    "cls": RNG.standard_normal((3, 8)).astype(np.float32),
    "patch": RNG.standard_normal((3, 4, 5, 8)).astype(np.float32),
}


def test_mean_patch_is_the_mean_over_the_grid() -> None:
    wanted = OUTPUTS["patch"].astype(np.float64).mean(axis=(1, 2))
    got = mean_patch(OUTPUTS)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, wanted.astype(np.float32))


def test_pooled_is_cls_and_then_mean_patch() -> None:
    picked = pick(OUTPUTS, ["pooled", "cls"])
    assert list(picked) == ["pooled", "cls"]
    np.testing.assert_array_equal(picked["pooled"][:, :8], OUTPUTS["cls"])
    np.testing.assert_array_equal(picked["pooled"][:, 8:], mean_patch(OUTPUTS))


def test_a_row_does_not_depend_on_its_batch() -> None:
    whole = mean_patch(OUTPUTS)
    for row in range(3):
        alone = mean_patch({"patch": OUTPUTS["patch"][row : row + 1]})
        np.testing.assert_array_equal(alone[0], whole[row])


def test_what_can_be_computed_is_offered() -> None:
    assert with_pooled(["cls", "patch"]) == ("cls", "patch", "mean_patch", "pooled")
    assert with_pooled(["cls"]) == ("cls",)
    assert with_pooled(["cls", "patch", "pooled"]) == ("cls", "patch", "pooled", "mean_patch")
