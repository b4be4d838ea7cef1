"""Sample orders: complete, shuffled, shared by all ranks, resumable at any position (docs/spec.md 4.14)."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from dinov3_ref.data.samplers import EpochSampler, InfiniteSampler, ShardedInfiniteSampler
from dinov3_ref.errors import DataError


def take(count: int, **options: Any) -> list[int]:
    return list(islice(InfiniteSampler(**{"sample_count": 7, "start": 0, "step": 1} | options), count))


def test_every_pass_holds_every_sample_once_in_another_order() -> None:
    passes = [take(21)[first : first + 7] for first in (0, 7, 14)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert take(9, shuffle=False) == [0, 1, 2, 3, 4, 5, 6, 0, 1]


@pytest.mark.parametrize("advance", [0, 1, 6, 7, 8, 20, 1_000_003])
def test_resuming_continues_the_order(advance: int) -> None:
    if advance < 100:
        assert take(10, advance=advance) == take(advance + 10)[advance:]
    else:  # far into a run, without replaying it
        draws = take(3, advance=advance)
        assert [draw.position for draw in draws] == [advance, advance + 1, advance + 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("ranks", [2, 3, 10])
def test_all_ranks_share_one_order(ranks: int) -> None:
    """Also when there are more ranks than samples."""
    parts = [take(6, start=rank, step=ranks) for rank in range(ranks)]
    interleaved = [part[draw] for draw in range(6) for part in parts]
    assert interleaved == take(6 * ranks)


def test_one_rank_resumes_two() -> None:
    resumed = take(5, start=0, step=1, advance=8)  # two ranks had drawn four each
    assert resumed == take(13)[8:]


def test_seeds_give_other_orders() -> None:
    assert take(7, seed=1) != take(7, seed=2)


def test_a_shuffled_order_is_uniform() -> None:
    """All 6 orders of 3 samples are about equally frequent: chi-squared with 5 degrees of freedom."""
    orders = take(3 * 1200, sample_count=3)
    counts: dict[tuple[int, ...], int] = {}
    for first in range(0, len(orders), 3):
        key = tuple(orders[first : first + 3])
        counts[key] = counts.get(key, 0) + 1
    chi2 = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert len(counts) == 6
    assert chi2 < 20.5  # 99.9 %


def test_epochs_end_and_have_different_orders() -> None:
    sampler = EpochSampler(sample_count=10, shuffle=True, start=1, step=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert len(first) == len(second) == len(sampler) == 3  # 10 samples on 3 ranks: one is left out
    assert first != second
    assert [draw.position for draw in second] == [11, 14, 17]  # type: ignore[attr-defined]


def test_an_epoch_may_be_longer_or_shorter_than_the_data() -> None:
    assert list(EpochSampler(sample_count=4, size=6, start=0, step=1)) == [0, 1, 2, 3, 0, 1]
    assert list(EpochSampler(sample_count=4, size=3, start=0, step=1, advance=1)) == [1, 2]


def test_sharded_ranks_draw_only_their_own_samples() -> None:
    for rank in range(3):
        sampler = ShardedInfiniteSampler(sample_count=10, start=rank, step=3)
        own = len(range(rank, 10, 3))
        draws = list(islice(sampler, 2 * own))
        assert sorted(draws[:own]) == sorted(draws[own:]) == list(range(rank, 10, 3))
        sampler.advance = 5
        assert (
            list(islice(sampler, 2))
            == list(islice(ShardedInfiniteSampler(sample_count=10, start=rank, step=3), 7))[5:]
        )


def test_rank_and_world_size_default_to_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    sampler = InfiniteSampler(sample_count=7)
    assert (sampler.start, sampler.step) == (1, 3)
    assert list(islice(sampler, 4)) == take(4, start=1, step=3)


def test_too_few_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        InfiniteSampler(sample_count=0, start=0, step=1)
    with pytest.raises(DataError, match="are too few for 4 ranks"):
        next(iter(ShardedInfiniteSampler(sample_count=2, start=3, step=4)))
