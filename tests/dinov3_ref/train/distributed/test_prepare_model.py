"""Activation checkpointing and compilation change neither results nor parameter names."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.train.distributed.data_parallel import LocalModel
from dinov3_ref.train.distributed.prepare_model import compile_parts, prepare_model
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.toy_training import collated, tiny_training


def build(*overrides: str) -> SSLMetaArch:
    torch.manual_seed(0)
    return SSLMetaArch(tiny_training(*overrides)).train()


def step(arch: SSLMetaArch) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    torch.manual_seed(1)
    loss, _ = arch.forward_backward(collated(), teacher_temp=0.05)
    return loss, {name: p.grad for name, p in arch.student.named_parameters()}


@pytest.mark.parametrize("how", ["checkpointing", "checkpointing_full"])
def test_recomputed_activations(how: str) -> None:
    arch = build(f"train.{how}=true")
    assert type(prepare_model(arch, arch.config, torch.device("cpu"))) is LocalModel
    assert arch.student["backbone"].blocks[0].forward.__name__ == "run"  # type: ignore[union-attr, index]
    torch.testing.assert_close(step(arch), step(build()), rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # from dynamo
def test_compiled_parts() -> None:
    """Blocks and heads of student and teacher; with dynamo's eager backend, which is fast."""
    arch = build()
    compile_parts(arch, backend="eager")
    for modules in (arch.student, arch.model_ema):
        assert modules["backbone"].blocks[1]._compiled_call_impl is not None  # type: ignore[union-attr, index]
        assert modules["ibot_head"]._compiled_call_impl is not None
    torch.testing.assert_close(step(arch), step(build()), rtol=1e-6, atol=1e-7)
    assert list(arch.state_dict()) == list(build().state_dict())
