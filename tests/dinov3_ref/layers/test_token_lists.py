"""Joining batches of different sizes for one product, and taking them apart again (docs/spec.md 2.5, 2.8)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.layers.token_lists import TokenwiseListMixin, join_tokens, split_tokens

SHAPES = [(2, 5, 4), (3, 1, 4), (1, 7, 4)]


def entries() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def test_tokens_are_joined_sample_by_sample() -> None:
    flat, sizes = join_tokens([torch.arange(8.0).reshape(2, 2, 2), torch.full((1, 1, 2), -1.0)])
    assert flat.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [-1, -1]]
    assert sizes == [(2, 2), (1, 1)]


def test_splitting_undoes_joining() -> None:
    flat, sizes = join_tokens(entries())
    assert flat.shape == (20, 4)
    for got, wanted in zip(split_tokens(flat, sizes), entries(), strict=True):
        assert torch.equal(got, wanted)


def test_parts_keep_their_sizes_when_the_width_changes() -> None:
    flat, sizes = join_tokens(entries())
    assert [x.shape for x in split_tokens(flat @ torch.ones(4, 9), sizes)] == [
        (2, 5, 9),
        (3, 1, 9),
        (1, 7, 9),
    ]


def test_entries_of_different_width_cannot_be_joined() -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        join_tokens([torch.zeros(1, 2, 4), torch.zeros(1, 2, 5)])


class Counted(TokenwiseListMixin):
    """A tokenwise layer that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_a_list_is_one_call_with_the_results_of_many() -> None:
    layer = Counted()
    got = layer.forward_list(entries())
    assert layer.calls == 1
    for out, x in zip(got, entries(), strict=True):
        torch.testing.assert_close(out, layer(x))
