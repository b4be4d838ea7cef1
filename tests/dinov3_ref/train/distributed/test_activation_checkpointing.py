"""Activation checkpointing: the same outputs, gradients and names with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dinov3_ref.models import DinoVisionTransformer
from dinov3_ref.train.distributed.activation_checkpointing import KEPT_OPERATORS, checkpoint_activations
from tests.support.images.photographs import pixels

KINDS = {"none": None, "selective": False, "full": True}


@pytest.fixture(scope="module")
def crops() -> list[Tensor]:
    names = ["coffee", "china", "rocket", "chelsea"]
    return [pixels(names, 32, 48), pixels(names, 16, 32)]


def build(kind: str) -> DinoVisionTransformer:
    torch.manual_seed(0)
    model = DinoVisionTransformer(
        embed_dim=32, depth=3, num_heads=2, drop_path_rate=0.4, pos_embed_rope_rescale_coords=2.0
    )
    if KINDS[kind] is not None:
        checkpoint_activations(model, full=bool(KINDS[kind]))
    return model.train()


def step(model: DinoVisionTransformer, crops: list[Tensor]) -> tuple[Tensor, dict[str, Tensor], int]:
    """Output, gradients, and the bytes that autograd kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model(crops, is_training=True)
    out = torch.cat([entry["x_norm_clstoken"] for entry in features])
    out.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return out.detach(), gradients, sum(kept.values())


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_the_same_step_under_drop_path_and_rope_augmentation(kind: str, crops: list[Tensor]) -> None:
    wanted, gradients, _ = step(build("none"), crops)
    got, recomputed, _ = step(build(kind), crops)
    assert torch.equal(got, wanted)
    assert recomputed.keys() == gradients.keys()
    for name in gradients:
        torch.testing.assert_close(recomputed[name], gradients[name], rtol=1e-6, atol=1e-7)


def test_full_checkpointing_saves_memory(crops: list[Tensor]) -> None:
    kept = {kind: step(build(kind), crops)[2] for kind in ("none", "full")}
    assert kept["full"] < 0.5 * kept["none"]  # measured 0.39, weights and crops included


class Products(TorchDispatchMode):
    """Counts matrix products and other operators."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.others = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator in KEPT_OPERATORS:
            self.products += 1
        else:
            self.others += 1
        return operator(*args, **(kwargs or {}))


def test_selective_checkpointing_recomputes_everything_but_products(crops: list[Tensor]) -> None:
    counted = {}
    for kind in KINDS:
        with Products() as counted[kind]:
            step(build(kind), crops)
    none, selective, full = (counted[kind] for kind in KINDS)
    assert selective.products == none.products < full.products
    assert none.others < selective.others


def test_parameter_names_stay(crops: list[Tensor]) -> None:
    assert list(build("full").state_dict()) == list(build("none").state_dict())


def test_without_gradients_nothing_is_recomputed(crops: list[Tensor]) -> None:
    calls: list[Any] = []
    model = build("full").eval()
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        plain = build("none").eval()(crops[0])
        assert torch.equal(model(crops[0]), plain)
    assert len(calls) == 1


def test_modules_without_blocks_are_refused() -> None:
    with pytest.raises(TypeError, match="Linear has no blocks"):
        checkpoint_activations(nn.Linear(2, 2))
