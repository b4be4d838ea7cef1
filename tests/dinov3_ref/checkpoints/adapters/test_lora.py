"""The merged weight of one layer against numbers computed by hand."""

from __future__ import annotations

import torch

from dinov3_ref.checkpoints.adapters.lora import LoraLayer

WEIGHT = torch.tensor([[1.0, 2.0, 2.0], [3.0, 0.0, 0.0]])
A = torch.tensor([[1.0, 0.0, 2.0]])
B = torch.tensor([[2.0], [1.0]])


def test_a_linear_layer() -> None:
    merged = LoraLayer(A, B, 0.5).merged(WEIGHT)
    assert merged.dtype == torch.float64
    assert merged.tolist() == [[2.0, 2.0, 4.0], [3.5, 0.0, 1.0]]


def test_dora_gives_each_output_its_length() -> None:
    merged = LoraLayer(A, B, 0.5, magnitude=torch.tensor([2.0, 3.0])).merged(WEIGHT)
    assert torch.allclose(merged.norm(dim=1), torch.tensor([2.0, 3.0]).double())
    assert torch.allclose(merged[0], 2.0 * torch.tensor([2.0, 2.0, 4.0]).double() / 24**0.5)


def test_a_convolution_is_a_product_too() -> None:
    layer = LoraLayer(A.reshape(1, 3, 1, 1).repeat(1, 1, 2, 2), B[..., None, None], 0.5)
    merged = layer.merged(WEIGHT[..., None, None].repeat(1, 1, 2, 2))
    assert merged[:, :, 1, 0].tolist() == [[2.0, 2.0, 4.0], [3.5, 0.0, 1.0]]


def test_the_bias_of_b_is_scaled() -> None:
    layer = LoraLayer(A, B, 0.5, bias=torch.tensor([2.0, 4.0]))
    assert layer.merged_bias(torch.tensor([1.0, 1.0])).tolist() == [2.0, 3.0]


def test_says_what_does_not_fit() -> None:
    assert LoraLayer(A, B, 1.0).problem((2, 3)) == ""
    assert LoraLayer(A, B, 1.0).problem((3, 2)) == "A [1, 3] and B [2, 1] do not fit a weight [3, 2]"
    assert LoraLayer(A, B, 1.0, magnitude=torch.ones(3)).problem((2, 3))
    assert LoraLayer(A.repeat(2, 1), B, 1.0).problem((2, 3)), "a convolution in groups"
