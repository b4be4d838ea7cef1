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
from dinov3_ref.train.distributed.devices import autocast
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


def step(strategy: str, centering: str, *overrides: str) -> dict[str, Any]:
    """Loss, gradients, norms, centres and teacher after two steps."""
    torch.manual_seed(0)
    config = tiny_training(
        "dino.koleo_loss_distributed=true",
        f"train.centering={centering}",
        f"compute_precision.sharding_strategy={strategy}",
        *overrides,
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
    for refused, message in (
        ("param_dtype=fp16", "sharding_strategy=NO_SHARD"),
        ("shard_ranks=3", "shard_ranks is 3, which does not divide 2 ranks"),
    ):
        config = tiny_training(f"compute_precision.{refused}")
        with pytest.raises(ConfigError, match=message):
            parallelize(SSLMetaArch(config), config, torch.device("cpu"))
    result |= {("bf16", strategy): bf16_step(strategy) for strategy in STRATEGIES}
    result["bf16 reductions"] = bf16_step("FULL_SHARD", "compute_precision.reduce_dtype=bf16")
    return result


def bf16_step(strategy: str, *overrides: str) -> dict[str, Any]:
    """A step with products in bf16: the dtypes of RoPE tables in attention, and the gradients."""
    torch.manual_seed(0)
    config = tiny_training(
        f"compute_precision.sharding_strategy={strategy}", "compute_precision.param_dtype=bf16", *overrides
    )
    arch = SSLMetaArch(config).train()
    ranks = parallelize(arch, config, torch.device("cpu"))
    dtypes = set()
    for modules in (arch.student, arch.model_ema):
        for block in modules["backbone"].blocks:  # type: ignore[union-attr]
            attention = block.attn
            rotate = attention.apply_rope

            def watched(q: Tensor, k: Tensor, rope: Any, rotate: Any = rotate) -> Any:
                dtypes.update((q.dtype, *(table.dtype for table in rope)))
                return rotate(q, k, rope)

            attention.apply_rope = watched
    with autocast(config, "cpu"):
        loss, _ = ranks.loss(own_part(collated(IMAGES)), teacher_temp=0.05)
    loss.backward()
    gradients = {n: whole(p.grad) for n, p in arch.student.named_parameters() if p.grad is not None}
    return {"dtypes": sorted(map(str, dtypes)), "gradients": gradients}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(everything, WORLD, tmp_path_factory.mktemp("ranks"))


def hybrid() -> dict[str, Any]:
    """On four ranks: two copies of the model, each on two ranks."""
    return {
        s: step(s, CENTERINGS[0], "compute_precision.shard_ranks=2") for s in STRATEGIES if s != "NO_SHARD"
    }


@pytest.fixture(scope="module")
def hybrid_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(hybrid, 4, tmp_path_factory.mktemp("hybrid"))


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {centering: step("NO_SHARD", centering) for centering in CENTERINGS}


@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_equals_that_of_one_rank(
    strategy: str, centering: str, ranks: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    assert_equal_steps([rank[strategy, centering] for rank in ranks], alone[centering])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["SHARD_GRAD_OP", "FULL_SHARD"])
def test_two_copies_of_two_ranks_equal_one_rank(
    strategy: str, hybrid_ranks: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    wanted = alone[CENTERINGS[0]]
    got = [rank[strategy] for rank in hybrid_ranks]
    assert_equal_steps(got, wanted)
    assert sum(rank["share"] for rank in got) == 2 * wanted["share"]


def assert_equal_steps(got: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
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


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rope_tables_stay_fp32_while_products_are_bf16(strategy: str, ranks: list[dict[str, Any]]) -> None:
    """Queries are bf16; sines and cosines are as `pos_embed_rope_dtype` made them."""
    for rank in ranks:
        assert rank["bf16", strategy]["dtypes"] == ["torch.bfloat16", "torch.float32"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_are_reduced_in_fp32(strategy: str, ranks: list[dict[str, Any]]) -> None:
    """A sum that is rounded to bf16 is a number of bf16; else about half of the sums of two are."""
    for rank in ranks:
        assert share_of_bf16_numbers(rank["bf16 reductions"]["gradients"]) == 1
        assert share_of_bf16_numbers(rank["bf16", strategy]["gradients"]) < 0.7


def share_of_bf16_numbers(gradients: dict[str, Tensor]) -> float:
    """Of all non-zero gradients, how many are exactly numbers of bf16."""
    values = torch.cat([gradient.flatten() for gradient in gradients.values()])
    values = values[values != 0]
    return float((values == values.bfloat16().float()).float().mean())


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # from dynamo
def test_blocks_are_compiled_once_for_all_depths_and_masks() -> None:
    """One graph for the student's blocks, one for the teacher's; the number of masked patches is free."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    counts = []
    for depth in (2, 4):
        torch.compiler.reset()
        arch = build(f"student.depth={depth}", "student.drop_path_rate=0.3", "student.layerscale=0.1")
        compile_parts(arch, backend=backend)
        graphs.clear()
        for masked in (0.3, 0.5, 0.9):
            data = collated()
            masks = torch.rand(data["collated_masks"].shape) < masked
            data["collated_masks"] = masks | ~masks.any()
            arch.forward_backward(data, teacher_temp=0.05)
            counts.append(len(graphs))
    assert set(counts) == {5}  # the others are the heads, of student and teacher


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
