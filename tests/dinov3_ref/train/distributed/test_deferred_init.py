"""A model built on meta, sharded and then initialised equals one that was built whole, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.distributed import whole
from dinov3_ref.train.distributed.data_parallel import prepare_model
from dinov3_ref.train.distributed.deferred_init import build_deferred, initialize
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.training.ranks import run_on_ranks
from tests.support.training.toy_training import as_convnext, frozen_teacher, tiny_training

CPU = torch.device("cpu")
GRAM = (
    "gram.use_loss=true",
    "gram.it_load_ema_teacher=2",
    "gram.rep_update=false",
    "crops.gram_teacher_crops_size=32",
)
DETAILS = ("student.n_storage_tokens=2", "student.mask_k_bias=true", "student.untie_cls_and_patch_norms=true")


def settings(folder: Path) -> dict[str, tuple[str, ...]]:
    random_teacher = (*frozen_teacher(folder)[:2], "distillation.checkpoint_path=ignore")
    return {
        "gram": (*GRAM, *DETAILS),
        "distilled": frozen_teacher(folder),
        "convnext": (*as_convnext(), *random_teacher, "crops.global_crops_size=32"),
        "continued": (f"student.pretrained_weights={folder / 'backbone.pth'}",),
    }


def build_whole(overrides: tuple[str, ...]) -> SSLMetaArch:
    torch.manual_seed(7)
    return SSLMetaArch(tiny_training(*overrides))


def build_on_meta(overrides: tuple[str, ...]) -> SSLMetaArch:
    torch.manual_seed(7)
    return build_deferred(lambda: SSLMetaArch(tiny_training(*overrides), "meta"), CPU)


def sharded(folder: str) -> dict[str, Any]:
    """The state of every setting, initialised in parts; gathered."""
    result = {}
    for name, overrides in settings(Path(folder)).items():
        arch = build_on_meta(overrides)
        assert all(value.is_meta for value in arch.state_dict().values())
        prepare_model(arch, arch.config, CPU)
        assert hasattr(next(arch.model_ema.parameters()), "device_mesh")
        result[name] = {key: whole(value) for key, value in arch.state_dict().items()}
        result[f"{name}, next"] = torch.rand(3)
    return result


@pytest.fixture(scope="module")
def weights(teacher: Path) -> Path:
    """The folder of the teacher, with a backbone file of the student's size."""
    torch.save(build_whole(()).student["backbone"].state_dict(), teacher / "backbone.pth")
    return teacher


@pytest.fixture(scope="module")
def on_ranks(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(sharded, 2, tmp_path_factory.mktemp("ranks"), str(weights))


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("name", ["gram", "distilled", "convnext", "continued"])
def test_sharded_weights_are_bit_equal(name: str, weights: Path, on_ranks: list[dict[str, Any]]) -> None:
    wanted = build_whole(settings(weights)[name]).state_dict()
    following = torch.rand(3)
    for rank in on_ranks:
        assert_equal(rank[name], wanted)
        assert torch.equal(rank[f"{name}, next"], following), "the generator is where it would be"


def test_one_process_is_bit_equal_too() -> None:
    arch = build_on_meta(())
    initialize(arch, CPU)
    assert_equal(arch.state_dict(), build_whole(()).state_dict())


def test_a_parameter_without_initial_value_is_nan() -> None:
    arch = build_on_meta(())
    arch.student["backbone"].extra = nn.Parameter(torch.empty(2, device="meta"))
    arch.model_ema["backbone"].extra = nn.Parameter(torch.empty(2, device="meta"))
    initialize(arch, CPU)
    assert arch.student["backbone"].extra.isnan().all()


def test_the_functions_of_torch_are_restored() -> None:
    before = nn.init.trunc_normal_
    with pytest.raises(ZeroDivisionError):
        build_deferred(lambda: 1 // 0, CPU)  # type: ignore[arg-type, return-value]
    assert nn.init.trunc_normal_ is before
