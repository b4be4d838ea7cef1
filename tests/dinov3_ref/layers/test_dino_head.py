"""DINOHead: its flags, its normalisation and its names (docs/spec.md 2.12)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.layers import DINOHead


def features() -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def test_flags_cut_the_head_in_two() -> None:
    head = DINOHead(8, 40, hidden_dim=16, bottleneck_dim=4)
    x = features()
    bottleneck = head(x, no_last_layer=True)
    assert bottleneck.shape == (6, 4)
    torch.testing.assert_close(bottleneck, nn.functional.normalize(head.mlp(x), dim=-1))
    torch.testing.assert_close(bottleneck.norm(dim=-1), torch.ones(6))
    assert torch.equal(head(bottleneck, only_last_layer=True), bottleneck @ head.last_layer.weight.T)
    assert torch.equal(head(x), head(bottleneck, only_last_layer=True))
    assert torch.equal(head(x, no_last_layer=True, only_last_layer=True), x)


def tiny(dtype: torch.dtype) -> DINOHead:
    """A head whose bottleneck is (3e-7, 4e-7), of norm 5e-7: between the two eps."""
    head = DINOHead(2, 3, nlayers=1, bottleneck_dim=2)
    assert isinstance(head.mlp, nn.Linear)
    nn.init.zeros_(head.mlp.weight)
    head.mlp.bias.data = torch.tensor([3e-7, 4e-7])
    return head.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(torch.float32, (0.6, 0.8)), (torch.bfloat16, (0.6, 0.8)), (torch.float16, (0.3, 0.4))],
)
def test_eps_is_coarse_in_fp16_alone(dtype: torch.dtype, wanted: tuple[float, float]) -> None:
    """1e-6 there, 1e-12 elsewhere: a norm of 5e-7 is divided by 1e-6, or by itself."""
    got = tiny(dtype)(torch.zeros(1, 2, dtype=dtype), no_last_layer=True)
    assert got[0].tolist() == pytest.approx(wanted, rel=0.2 if dtype == torch.float16 else 1e-2)


def test_eps_goes_by_the_mlps_output_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.float16), torch.no_grad():
        got = tiny(torch.float32)(torch.zeros(1, 2), no_last_layer=True)
    assert got[0].tolist() == pytest.approx((0.3, 0.4), rel=0.2)


def test_names_of_the_default_head() -> None:
    """Names that official training files hold; the last layer has neither bias nor weight norm."""
    shapes = {name: tuple(t.shape) for name, t in DINOHead(384, 1024).state_dict().items()}
    assert shapes == {
        "mlp.0.weight": (2048, 384),
        "mlp.0.bias": (2048,),
        "mlp.2.weight": (2048, 2048),
        "mlp.2.bias": (2048,),
        "mlp.4.weight": (256, 2048),
        "mlp.4.bias": (256,),
        "last_layer.weight": (1024, 256),
    }


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"nlayers": 2}, ["Linear", "GELU", "Linear"]),
        ({"nlayers": 4}, ["Linear", "GELU", "Linear", "GELU", "Linear", "GELU", "Linear"]),
        ({"use_bn": True}, ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]),
    ],
)
def test_layers_of_the_mlp(options: dict[str, int], layers: list[str]) -> None:
    head = DINOHead(8, 5, hidden_dim=16, bottleneck_dim=4, **options)  # type: ignore[arg-type]
    assert [type(layer).__name__ for layer in head.mlp.children()] == layers
    assert head(features()).shape == (6, 5)


def test_one_layer_is_a_plain_linear() -> None:
    head = DINOHead(8, 5, nlayers=1, bottleneck_dim=4, mlp_bias=False)
    assert list(head.state_dict()) == ["mlp.weight", "last_layer.weight"]
    assert head.mlp.weight.shape == (4, 8)


def test_initial_weights_are_small_and_biases_zero() -> None:
    torch.manual_seed(0)
    head = DINOHead(64, 512)
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            assert parameter.count_nonzero() == 0
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.03)


def test_dense_features_keep_their_leading_dimensions() -> None:
    assert DINOHead(8, 5, hidden_dim=16)(features().reshape(2, 3, 8)).shape == (2, 3, 5)
