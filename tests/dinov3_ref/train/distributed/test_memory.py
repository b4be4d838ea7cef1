"""Computed bytes are those that two ranks hold after a step; the 7B fits a GPU of 80 GB."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3_ref.configs import load_config
from dinov3_ref.train.distributed.data_parallel import STRATEGIES
from dinov3_ref.train.distributed.deferred_init import build_deferred
from dinov3_ref.train.distributed.memory import Footprint, footprint
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from dinov3_ref.train.step import TrainingStep
from tests.support.training.ranks import run_on_ranks
from tests.support.training.toy_training import collated, tiny_training

CPU = torch.device("cpu")
GRAM = (
    "gram.use_loss=true",
    "gram.it_load_ema_teacher=0",
    "gram.rep_update=false",
    "crops.gram_teacher_crops_size=32",
)


def tiny(strategy: str) -> Any:
    return tiny_training(
        *GRAM, f"compute_precision.sharding_strategy={strategy}", "dino.head_n_prototypes=25"
    )


def held() -> dict[str, dict[str, int]]:
    """Bytes of the tensors on this rank after a step, by strategy."""
    result = {}
    for strategy in STRATEGIES:
        config = tiny(strategy)
        arch = SSLMetaArch(config)
        if strategy != "NO_SHARD":
            arch = build_deferred(lambda config=config: SSLMetaArch(config, "meta"), CPU)  # type: ignore[misc]
        step = TrainingStep(config, arch.train(), CPU)
        step.model.loss(collated(gram_size=(32, 48)), teacher_temp=0.05)[0].backward()
        step.optimizer.step()
        own = list(arch.student.parameters())
        states = [value for state in step.optimizer.state.values() for value in state.values()]
        result[strategy] = {
            "student": _bytes(own),
            "teachers": _bytes(p for modules in arch.all_teachers() for p in modules.parameters()),
            "gradients": _bytes(p.grad for p in own),
            "optimizer": _bytes(value for value in states if value.ndim),
        }
    return result


def _bytes(tensors: Any) -> int:
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, int]]]:
    return run_on_ranks(held, 2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_bytes_of_two_ranks(strategy: str, ranks: list[dict[str, dict[str, int]]]) -> None:
    config = tiny(strategy)
    computed = vars(footprint(SSLMetaArch(config, "meta"), config, 2))
    assert ranks[0][strategy] == {name: computed[name] for name in ranks[0][strategy]}
    assert all(ranks[1][strategy][name] <= computed[name] for name in ranks[1][strategy])


def seven_billion(strategy: str, world: int, *overrides: str) -> Footprint:
    """Of the Gram stage: student, EMA teacher, Gram teacher."""
    config = load_config(
        "gram_anchor",
        [
            "student.fp8_enabled=false",
            "gram.ckpt=ignore",
            f"compute_precision.sharding_strategy={strategy}",
            *overrides,
        ],
    )
    return footprint(SSLMetaArch(config, "meta"), config, world)


def test_the_7b_with_two_teachers_fits_eight_gpus_of_80_gb() -> None:
    parts = seven_billion("FULL_SHARD", 8)
    assert parts.total < 30e9
    assert seven_billion("SHARD_GRAD_OP", 8).total < 50e9
    assert seven_billion("NO_SHARD", 8).total > 150e9, "one rank does not hold it whole"
    groups = seven_billion("FULL_SHARD", 256, "compute_precision.shard_ranks=8")
    assert groups == parts, "replicas of eight ranks each take what eight ranks take"


def test_what_full_sharding_gathers() -> None:
    """Two of 40 blocks, of 168 million numbers each: 4096 wide, SwiGLU of 8192."""
    width, hidden = 4096, 8192
    block = 4 * width * width + 3 * width * hidden
    gathered = seven_billion("FULL_SHARD", 8).gathered
    assert gathered >= 2 * 2 * block
    kept = seven_billion("SHARD_GRAD_OP", 8).gathered
    assert kept > 2 * 40 * block
