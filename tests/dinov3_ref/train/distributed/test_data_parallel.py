"""A step on two ranks equals a step on one rank with the whole batch, within 1e-5."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3_ref.distributed import get_rank, get_world_size, whole
from dinov3_ref.errors import ConfigError
from dinov3_ref.train.distributed.data_parallel import (
    STRATEGIES,
    LocalModel,
    compile_parts,
    parallelize,
    prepare_model,
)
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from dinov3_ref.train.step import FiniteGuard, clip_gradients
from tests.support.training.ranks import run_on_ranks
from tests.support.training.toy_training import collated, tiny_training

WORLD, IMAGES = 2, 4
CENTERINGS = ("sinkhorn_knopp", "softmax_center")


def own_part(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """All crops of this rank's images, crop-major."""
    part = IMAGES // get_world_size()
    first = get_rank() * part

    def select(crops: Tensor) -> Tensor:
        return crops.unflatten(0, (-1, IMAGES))[:, first : first + part].flatten(0, 1)

    return {name: select(value) for name, value in data.items()}


def step(strategy: str, centering: str) -> dict[str, Any]:
    """Loss, gradients, norms, centres and teacher after two steps."""
    torch.manual_seed(0)
    config = tiny_training(
        "dino.koleo_loss_distributed=true",
        f"train.centering={centering}",
        f"compute_precision.sharding_strategy={strategy}",
    )
    arch = SSLMetaArch(config).train()
    ranks = parallelize(arch, config, torch.device("cpu"))
    data = own_part(collated(IMAGES))
    for iteration in range(2):  # the second step uses the centre of the first
        arch.student.zero_grad()
        for last in (False, True):  # half of the gradient each, synchronised in the second
            with nullcontext() if last else ranks.no_sync():
                loss, _ = ranks.loss(data, teacher_temp=0.05)
                (loss / 2).backward()
        gradients = {
            n: whole(p.grad).clone() for n, p in arch.student.named_parameters() if p.grad is not None
        }
        with torch.no_grad():
            for parameter in arch.student.parameters():
                parameter -= 0.1 * parameter.grad
        arch.after_step(iteration, momentum=0.5)
    return {
        "loss": loss.detach(),
        "gradients": gradients,
        "norms": clip_gradients(arch.student, 1.0),
        "centers": {"dino": arch.dino_loss.center, "ibot": arch.ibot_patch_loss.center},
        "teacher": {name: whole(value) for name, value in arch.teacher.state_dict().items()},
        "share": torch.tensor(sum(_local_size(p) for p in arch.student.parameters())),
    }


def _local_size(parameter: Any) -> int:
    return int(parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel())


def everything() -> dict[str, Any]:
    result: dict[str, Any] = {(s, c): step(s, c) for s in STRATEGIES for c in CENTERINGS}
    sick = torch.tensor(float("nan") if get_rank() == 0 else 1.0)
    result["allowed"] = FiniteGuard().allows(sick)
    config = tiny_training("compute_precision.param_dtype=fp16")
    arch = SSLMetaArch(config)
    with pytest.raises(ConfigError, match="sharding_strategy=NO_SHARD"):
        parallelize(arch, config, torch.device("cpu"))
    return result


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(everything, WORLD, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {centering: step("NO_SHARD", centering) for centering in CENTERINGS}


@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_equals_that_of_one_rank(
    strategy: str, centering: str, ranks: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    wanted, got = alone[centering], [rank[strategy, centering] for rank in ranks]
    mean = torch.stack([rank["loss"] for rank in got]).mean()
    torch.testing.assert_close(mean, wanted["loss"], rtol=1e-5, atol=0)
    for rank in got:
        assert rank["gradients"].keys() == wanted["gradients"].keys()
        for kind in ("gradients", "teacher"):
            for name, value in wanted[kind].items():
                assert (rank[kind][name] - value).norm() <= 1e-5 * value.norm(), name
        torch.testing.assert_close(rank["norms"], wanted["norms"], rtol=1e-4, atol=0)
        torch.testing.assert_close(rank["centers"], wanted["centers"])


def test_sharded_ranks_hold_parts(ranks: list[dict[str, Any]], alone: dict[str, dict[str, Any]]) -> None:
    whole_model = alone[CENTERINGS[0]]["share"]
    for strategy, parts in (("NO_SHARD", 1), ("SHARD_GRAD_OP", 2), ("FULL_SHARD", 2)):
        shares = [rank[strategy, CENTERINGS[0]]["share"] for rank in ranks]
        assert sum(shares) == WORLD * whole_model / parts


def test_a_nan_on_one_rank_skips_the_step_on_all(ranks: list[dict[str, Any]]) -> None:
    assert [rank["allowed"] for rank in ranks] == [False, False]


def build(*overrides: str) -> SSLMetaArch:
    torch.manual_seed(0)
    return SSLMetaArch(tiny_training(*overrides)).train()


def gradients_of(arch: SSLMetaArch) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    torch.manual_seed(1)
    loss, _ = arch.forward_backward(collated(), teacher_temp=0.05)
    return loss, {name: p.grad for name, p in arch.student.named_parameters()}


@pytest.mark.parametrize("how", ["checkpointing", "checkpointing_full"])
def test_recomputed_activations(how: str) -> None:
    arch = build(f"train.{how}=true")
    assert type(prepare_model(arch, arch.config, torch.device("cpu"))) is LocalModel
    assert arch.student["backbone"].blocks[0].forward.__name__ == "run"  # type: ignore[union-attr, index]
    torch.testing.assert_close(gradients_of(arch), gradients_of(build()), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # from dynamo
def test_compiled_parts() -> None:
    """Blocks and heads of student and teacher; with dynamo's eager backend, which is fast."""
    arch = build()
    compile_parts(arch, backend="eager")
    for modules in (arch.student, arch.model_ema):
        assert modules["backbone"].blocks[1]._compiled_call_impl is not None  # type: ignore[union-attr, index]
        assert modules["ibot_head"]._compiled_call_impl is not None
    torch.testing.assert_close(gradients_of(arch), gradients_of(build()), rtol=1e-6, atol=1e-7)
    assert list(arch.state_dict()) == list(build().state_dict())
