"""Running statistics, by hand and against the same over everything at once."""

from __future__ import annotations

import math

import pytest
import torch

from dinov3_ref.ranges.running import ChannelMaxima, ResidualSeen, largest


def test_largest_is_a_magnitude() -> None:
    assert largest(torch.tensor([[1.0, -7.0], [3.0, 2.0]])) == 7.0
    assert largest(torch.tensor([0.0, math.nan, 1.0])) == math.inf
    assert largest(torch.tensor([-math.inf, 1.0])) == math.inf


def test_spread_by_hand() -> None:
    maxima = ChannelMaxima()
    maxima.see(torch.tensor([[[1.0, -2.0, 3.0], [0.5, 1.0, -4.0]]]))
    maxima.see(torch.tensor([[-100.0, 0.0, 0.0]]))
    spread = maxima.spread()
    assert (spread.channel, spread.largest, spread.median, spread.ratio) == (0, 100.0, 4.0, 25.0)


@pytest.mark.parametrize(
    ("channels", "ratio"),
    [([0.0, 0.0, 0.0], 1.0), ([0.0, 0.0, 5.0], math.inf), ([math.inf, 1.0, 1.0], math.inf)],
)
def test_spread_of_dead_channels(channels: list[float], ratio: float) -> None:
    maxima = ChannelMaxima()
    maxima.see(torch.tensor([channels]))
    assert maxima.spread().ratio == ratio


def test_residual_is_told_by_kind_of_token() -> None:
    seen = ResidualSeen(storage_tokens=2)
    x = torch.ones(2, 1 + 2 + 4, 8)
    x[0, 0, 1] = -70_000.0  # one CLS token
    x[:, 2, 1] = 65_504.0  # storage: the last number fp16 has
    x[1, 3:5, [1, 6]] = 1e5  # two patches
    seen.see(x[:1])
    seen.see(x[1:])
    found = seen.result()
    assert found.largest == 1e5
    assert found.largest_by_kind == {"cls": 70_000.0, "storage": 65_504.0, "patch": 1e5}
    assert found.channels_beyond == 2
    assert found.tokens_beyond == {"cls": 1, "storage": 0, "patch": 2}
    assert found.tokens == {"cls": 2, "storage": 4, "patch": 8}


def test_what_is_not_finite_is_beyond() -> None:
    seen = ResidualSeen(storage_tokens=0)
    x = torch.ones(1, 3, 4)
    x[0, 1, 2] = math.nan
    seen.see(x)
    found = seen.result()
    assert (found.largest, found.channels_beyond) == (math.inf, 1)
    assert found.tokens_beyond == {"cls": 0, "storage": 0, "patch": 1}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e5])
def test_percentile_is_within_its_promise(scale: float) -> None:
    x = scale * torch.randn(3, 50, 64, generator=torch.Generator().manual_seed(0)) ** 3
    seen = ResidualSeen(storage_tokens=4)
    for part in x.split(1):
        seen.see(part)
    wanted = float(x.abs().flatten().kthvalue(math.ceil(0.999 * x.numel())).values)
    assert seen.result().p999 == pytest.approx(wanted, rel=0.004)


def test_percentile_is_never_above_the_largest() -> None:
    seen = ResidualSeen(storage_tokens=0)
    seen.see(torch.full((1, 2, 3), 5.0))
    assert seen.result().p999 == seen.result().largest == 5.0
