"""Class maps of sliding windows against a plain implementation in torch that holds all labels in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dinodeploy.errors import MisuseError
from dinodeploy.text.segment import (
    Window,
    check_windows,
    class_ids,
    patch_cosines,
    patch_vectors,
    window_places,
)


def plain_map(windows: list[Window], size: tuple[int, int], original: tuple[int, int]) -> np.ndarray:
    """Probabilities and mean cosines [K,h,w] by docs/spec.md 5.9, everything in memory."""
    labels = windows[0].cosines.shape[-1]
    total, similar = torch.zeros(2, labels, *size, dtype=torch.float64)
    counts = torch.zeros(size, dtype=torch.float64)
    for window in windows:
        grid = torch.from_numpy(window.cosines).double().permute(2, 0, 1)[None]
        up = F.interpolate(grid, (window.height, window.width), mode="bilinear", align_corners=False)[0]
        total[(slice(None), *window.part)] += up.softmax(dim=0)
        similar[(slice(None), *window.part)] += up
        counts[window.part] += 1
    both = torch.stack([total / counts, similar / counts])
    return F.interpolate(both, original, mode="bilinear", align_corners=False, antialias=True).numpy()


def make_windows(size: tuple[int, int], side: int, stride: int, labels: int, patch: int) -> list[Window]:
    rng = np.random.default_rng(1)
    return [
        Window(*place, rng.uniform(-1, 1, (place[2] // patch, place[3] // patch, labels)).astype(np.float32))
        for place in window_places(size, side, stride)
    ]


@pytest.mark.parametrize(
    ("size", "original"),
    [((32, 48), (91, 140)), ((32, 32), (20, 21)), ((32, 104), (32, 104)), ((16, 40), (50, 70))],
)
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_the_map_is_that_of_the_plain_implementation(
    size: tuple[int, int], original: tuple[int, int], threshold: float | None
) -> None:
    windows = make_windows(size, 24, 16, 5, 4)
    shares, cosines = plain_map(windows, size, original)
    wanted = shares.argmax(axis=0)
    two = np.sort(shares, axis=0)[-2:]
    clear = two[1] - two[0] > 1e-5
    if threshold is not None:
        best = np.take_along_axis(cosines, wanted[None], 0)[0]
        wanted = np.where(best < threshold, 255, wanted)
        clear &= abs(best - threshold) > 1e-4
    found = class_ids(windows, size, original, threshold)
    assert (found.shape, found.dtype) == (original, np.uint8)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], wanted[clear])
    assert threshold is None or 0 < (found == 255).mean() < 1


def test_windows_cover_every_pixel_and_touch_the_edges() -> None:
    for size in ((512, 512), (512, 768), (512, 4096), (384, 384), (512, 528), (256, 640)):
        seen = np.zeros(size, int)
        for top, left, height, width in window_places(size, 384, 192):
            assert (height, width) == (min(384, size[0]), min(384, size[1]))
            assert top % 16 == left % 16 == 0
            seen[top : top + height, left : left + width] += 1
        assert seen.min() >= 1
    assert list(window_places((512, 768), 384, 192)) == [
        (top, left, 384, 384) for top in (0, 128) for left in (0, 192, 384)
    ]


def test_cosines_of_patches_use_the_second_half_of_a_text_feature() -> None:
    rng = np.random.default_rng(2)
    patches, texts = rng.normal(size=(3, 4, 6)), rng.normal(size=(5, 12))
    found = patch_cosines(patches, patch_vectors(texts, 6))
    wanted = F.cosine_similarity(
        torch.from_numpy(patches)[:, :, None], torch.from_numpy(texts[:, 6:])[None, None], dim=-1
    )
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
    with pytest.raises(
        MisuseError, match="text embeddings have 12 numbers, patch embeddings 5; wanted twice"
    ):
        patch_vectors(texts, 5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((500, 384, 192), "--imgsz is 500; wanted a multiple of the patch size 16, such as 496"),
        ((512, 8, 192), "--window is 8; wanted a multiple of the patch size 16, such as 16"),
        ((512, 384, 100), "--stride is 100; wanted a multiple"),
        ((512, 384, 400), "--stride is 400; wanted at most --window, 384"),
    ],
)
def test_windows_off_the_patch_grid_are_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        check_windows(*sizes, 16)
    check_windows(512, 384, 192, 16)
