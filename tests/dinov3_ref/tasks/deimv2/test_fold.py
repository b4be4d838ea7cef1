"""A folded convolution gives what the convolutions and BatchNorms of the file give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.tasks.deimv2.fold import fold, unfolded_shapes

EPS = 1e-3


def conv_norm(kernel: int, groups: int, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential()
    made.add_module("conv", nn.Conv2d(4, 4, kernel, padding=kernel // 2, groups=groups, bias=False))
    made.add_module("norm", nn.BatchNorm2d(4, EPS))
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    made.norm.running_mean = torch.randn(4, generator=generator)
    made.norm.running_var = torch.rand(4, generator=generator) + 0.01
    return made.eval()


def tensors_of(path: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{path}.{key}": tensor for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_and_its_norm(groups: int) -> None:
    module = conv_norm(3, groups, 0)
    names = ["top.conv.weight", "top.conv.bias"]
    folded = fold(tensors_of("top", module), names, EPS)
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = nn.functional.conv2d(x, folded[names[0]], folded[names[1]], padding=1, groups=groups)
        torch.testing.assert_close(got, module(x), rtol=1e-5, atol=1e-5)


def test_two_branches_become_one() -> None:
    path = "block.bottlenecks.0"
    branches = {f"{path}.conv1": conv_norm(3, 1, 1), f"{path}.conv2": conv_norm(1, 1, 2)}
    tensors = {key: t for at, module in branches.items() for key, t in tensors_of(at, module).items()}
    folded = fold(tensors, [f"{path}.conv.weight", f"{path}.conv.bias"], EPS)
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = nn.functional.conv2d(x, *folded.values(), padding=1)
        torch.testing.assert_close(got, sum(m(x) for m in branches.values()), rtol=1e-5, atol=1e-5)


def test_shapes_of_the_file() -> None:
    found = unfolded_shapes({"a.conv.weight": (8, 4, 3, 3), "a.conv.bias": (8,), "b.weight": (2,)})
    assert found == {
        "b.weight": (2,),
        "a.conv.weight": (8, 4, 3, 3),
        **{f"a.norm.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")},
    }
