"""Seeds of samples, and draws that know their position."""

from __future__ import annotations

import pickle

import torch

from dinov3_ref.data.seeding import Draw, derive_seed, torch_seed


def test_a_draw_is_an_int_and_can_be_pickled() -> None:
    draw = pickle.loads(pickle.dumps(Draw(3, 17)))
    assert (draw, draw.position) == (3, 17)
    assert ["a", "b", "c", "d"][draw] == "d"


def test_derived_seeds_differ_and_are_reproducible() -> None:
    assert derive_seed(0, "crops", 1) == derive_seed(0, "crops", 1)
    assert len({derive_seed(seed, word, 1) for seed in range(50) for word in ("crops", "mask")}) == 100
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert 0 <= derive_seed(9) < 2**63


def test_torch_seed_restores_the_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    first = torch.rand(2)
    with torch_seed(5):
        inside = torch.rand(2)
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), inside)
