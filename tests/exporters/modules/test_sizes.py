"""Sizes that a module takes are found by running it; others are fixed, or refused."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from dinodeploy.errors import ExportError, MisuseError
from dinodeploy.images.preprocess import Preprocess
from exporters.modules.sizes import check_dynamic, enlarge, find_sizes

STEPS = Preprocess("hf", 64, 64, (0.5,) * 3, (0.5,) * 3)


class Halves(nn.Module):
    """Skips from a map to its half: both sides must be even."""

    def forward(self, x: Tensor) -> Tensor:
        half = F.avg_pool2d(x, 16)
        return half + F.interpolate(F.avg_pool2d(half, 2), scale_factor=2.0)


class OneSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 3, 64, 64)


class OneImage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            raise ValueError("one at a time")
        return x


def test_multiples_are_found() -> None:
    sizes = find_sizes(Halves(), STEPS, 3, (), allowed=True)
    assert (sizes.preprocess.patch_size, sizes.fixed) == (32, ())
    assert len(sizes.cases) == 3


@pytest.mark.parametrize(("module", "fixed"), [(OneSize(), ("height", "width")), (OneImage(), ("batch",))])
def test_what_a_module_does_not_take_is_fixed(module: nn.Module, fixed: tuple[str, ...]) -> None:
    sizes = find_sizes(module, STEPS, 3, (), allowed=True)
    assert sizes.fixed == fixed
    assert sizes.notes[0].startswith(", ".join(fixed))
    assert all(len(photos) == 1 for _, photos, _ in sizes.cases) is ("batch" in fixed)
    assert all(grid is None for _, _, grid in sizes.cases) is ("height" in fixed)


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (OneSize(), "takes images of 64x64 only"),
        (OneImage(), "fails on two images: ValueError: one at a time"),
    ],
)
def test_or_refused_where_it_must_be_free(module: nn.Module, complaint: str) -> None:
    with pytest.raises(ExportError, match=complaint):
        find_sizes(module, STEPS, 3, (), allowed=False)


def test_a_module_that_fails_at_its_own_size_is_refused() -> None:
    with pytest.raises(ExportError, match=r"fails on an image of 128x128.*test_sizes\.py:"):
        find_sizes(OneSize(), STEPS.with_size(128, 128), 3, (), allowed=True)


def test_dynamic_is_checked() -> None:
    assert check_dynamic(None) == ()
    assert check_dynamic(("batch",)) == ("height", "width")
    with pytest.raises(MisuseError, match="dynamic 'depth' is unknown"):
        check_dynamic(("depth",))
    with pytest.raises(MisuseError, match="together"):
        check_dynamic(("batch", "height"))


def test_a_grid_grows_by_what_its_shorter_side_lacks() -> None:
    assert enlarge((7, 12), 8) == (8, 13)
    assert enlarge((16, 9), 8) == (16, 9)
