"""A step on two ranks is the step of one rank with the whole batch (issue 6, acceptance 2): relative 1e-5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dinov3_ref.distributed import get_rank, get_world_size
from dinov3_ref.train.finite import FiniteGuard
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.ranks import run_on_ranks
from tests.toy_training import collated, tiny_training

WORLD, IMAGES = 2, 4
KINDS = {
    "sinkhorn": ("dino.koleo_loss_distributed=true",),
    "softmax": ("dino.koleo_loss_distributed=true", "train.centering=softmax_center"),
}


def own_part(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """This rank's images, every crop of them; crops are crop-major."""
    part = IMAGES // get_world_size()
    first = get_rank() * part

    def select(crops: Tensor) -> Tensor:
        return crops.unflatten(0, (-1, IMAGES))[:, first : first + part].flatten(0, 1)

    return {name: select(value) for name, value in data.items()}


def step(kind: str) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, gradients and centres after a step of two, under DDP where there are ranks."""
    torch.manual_seed(0)
    arch = SSLMetaArch(tiny_training(*KINDS[kind])).train()
    trained = DistributedDataParallel(arch) if get_world_size() > 1 else arch
    for _ in range(2):  # the second sees the centre of the first
        arch.student.zero_grad()
        loss, _ = trained(own_part(collated(IMAGES)), teacher_temp=0.05)
        loss.backward()
    gradients = {name: p.grad for name, p in arch.student.named_parameters() if p.grad is not None}
    centers = {"dino": arch.dino_loss.center, "ibot": arch.ibot_patch_loss.center}
    return loss.detach(), gradients, centers


def everything() -> dict[str, Any]:
    result: dict[str, Any] = {kind: step(kind) for kind in KINDS}
    sick = torch.tensor(float("nan") if get_rank() == 0 else 1.0)
    result["allowed"] = FiniteGuard().allows(sick)
    return result


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(everything, WORLD, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("kind", KINDS)
def test_loss_gradients_and_centers(kind: str, ranks: list[dict[str, Any]]) -> None:
    loss, gradients, centers = step(kind)
    mean = torch.stack([rank[kind][0] for rank in ranks]).mean()
    torch.testing.assert_close(mean, loss, rtol=1e-5, atol=0)
    for rank in ranks:
        assert rank[kind][1].keys() == gradients.keys()
        for name, gradient in gradients.items():
            error = (rank[kind][1][name] - gradient).norm() / gradient.norm()
            assert error < 1e-5, name
        torch.testing.assert_close(rank[kind][2], centers)


def test_a_nan_on_one_rank_stops_the_step_on_all(ranks: list[dict[str, Any]]) -> None:
    assert [rank["allowed"] for rank in ranks] == [False, False]
