"""LayerScale (docs/spec.md 2.7)."""

from __future__ import annotations

import torch

from dinov3_ref.layers import LayerScale


def test_every_channel_has_its_own_gain() -> None:
    layer = LayerScale(3)
    layer.gamma.data = torch.tensor([1.0, -2.0, 0.5])
    x = torch.tensor([[[1.0, 1.0, 1.0], [4.0, 5.0, 6.0]]])
    assert layer(x).tolist() == [[[1.0, -2.0, 0.5], [4.0, -10.0, 3.0]]]
    assert x[0, 1].tolist() == [4.0, 5.0, 6.0]


def test_in_place_writes_to_the_input() -> None:
    layer = LayerScale(2, init_values=3.0, inplace=True)
    x = torch.ones(1, 2)
    with torch.no_grad():
        assert layer(x) is x
    assert x.tolist() == [[3.0, 3.0]]


def test_gain_starts_at_its_initial_value_and_returns_to_it() -> None:
    layer = LayerScale(4, init_values=0.25)
    assert list(layer.state_dict()) == ["gamma"]
    assert layer.gamma.tolist() == [0.25] * 4
    layer.gamma.data.fill_(7.0)
    layer.reset_parameters()
    assert layer.gamma.tolist() == [0.25] * 4
    assert torch.equal(LayerScale(2).gamma, torch.full((2,), 1e-5))
