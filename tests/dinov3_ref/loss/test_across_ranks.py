"""Losses of a global batch do not depend on the number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.distributed import gather_rows, get_rank, get_world_size
from dinov3_ref.loss import DINOLoss, KoLeoLoss, KoLeoLossDistributed, iBOTPatchLoss, sinkhorn_knopp
from tests.support.training.ranks import run_on_ranks

WORLD, ROWS, D, K = 2, 8, 5, 6
UNEVEN = (5, 3)  # masked patches per rank


def batch(width: int) -> Tensor:
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(0))


def own(x: Tensor, sizes: tuple[int, ...] = (ROWS // WORLD,) * WORLD) -> Tensor:
    """The rows of this rank; all rows in a single process."""
    return x if get_world_size() == 1 else x.split(sizes)[get_rank()]


KOLEOS: dict[str, nn.Module] = {
    "all": KoLeoLossDistributed(),
    "topk": KoLeoLossDistributed(topk=3),
    "group spans ranks": KoLeoLossDistributed(topk=2, loss_group_size=8),
    "group inside a rank": KoLeoLossDistributed(loss_group_size=2),
}


def koleo(loss: nn.Module) -> tuple[Tensor, Tensor]:
    """The loss of a linear layer's output, and the gradient of the layer."""
    layer = nn.Linear(D, D, bias=False)
    layer.weight.data = torch.eye(D) + 0.1
    value = loss(layer(own(batch(D))))
    value.backward()
    assert layer.weight.grad is not None
    return value.detach(), layer.weight.grad


def everything() -> dict[str, Any]:
    scores = batch(K)
    dino, ibot = DINOLoss(K), iBOTPatchLoss(K)
    dino.update_center(own(scores))
    ibot.update_center(own(scores, UNEVEN).unsqueeze(0))
    return {
        "world": torch.tensor([get_rank(), get_world_size()]),
        "gathered": gather_rows(own(scores)),
        "sinkhorn": sinkhorn_knopp(own(scores), 0.07),
        "sinkhorn uneven": sinkhorn_knopp(own(scores, UNEVEN), 0.07),
        "sinkhorn one rank empty": sinkhorn_knopp(own(scores, (8, 0)), 0.07),
        "dino center": dino.center,
        "ibot center": ibot.center,
        "koleo": {name: koleo(loss) for name, loss in KOLEOS.items()},
        "local koleo": koleo(KoLeoLoss()),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(everything, WORLD, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything()


def test_there_were_two_ranks(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert [rank["world"].tolist() for rank in ranks] == [[0, 2], [1, 2]]
    assert alone["world"].tolist() == [0, 1]
    assert all(torch.equal(rank["gathered"], batch(K)) for rank in ranks)


@pytest.mark.parametrize("name", ["sinkhorn", "sinkhorn uneven", "sinkhorn one rank empty"])
def test_sinkhorn(name: str, ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]), alone[name])


@pytest.mark.parametrize("name", ["dino center", "ibot center"])
def test_centers(name: str, ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank[name], alone[name])


@pytest.mark.parametrize("name", KOLEOS)
def test_distributed_koleo(name: str, ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Mean of the ranks' values and gradients, as data-parallel training averages them."""
    for part in (0, 1):
        mean = torch.stack([rank["koleo"][name][part] for rank in ranks]).mean(0)
        torch.testing.assert_close(mean, alone["koleo"][name][part])


def test_local_koleo_uses_only_its_own_rank(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    halves = [KoLeoLoss()(half @ (torch.eye(D) + 0.1).T) for half in batch(D).split(ROWS // WORLD)]
    torch.testing.assert_close([rank["local koleo"][0] for rank in ranks], halves)
    assert not torch.isclose(torch.stack(halves).mean(), alone["local koleo"][0], rtol=1e-3)
