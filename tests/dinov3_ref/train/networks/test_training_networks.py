"""Student and teachers: initial weights, frozen parameters, distillation from another configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from dinov3_ref.checkpoints import load_checkpoint
from dinov3_ref.checkpoints.convert import save_checkpoint
from dinov3_ref.errors import CheckpointError, ConfigError, KeyMismatch
from dinov3_ref.loss import GramLoss
from dinov3_ref.train.networks.training_networks import GramAnchor, update_ema
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.training.toy_training import collated, make_masks, same_weights, tiny_training

# Options of the released models.
RELEASED = (
    "student.n_storage_tokens=4",
    "student.mask_k_bias=true",
    "student.norm_layer=layernormbf16",
    "student.embed_dim=128",
)
LARGER = ("student.embed_dim=64", "student.depth=3", "dino.head_hidden_dim=20", "ibot.head_bottleneck_dim=12")
OWN_GRAM = ("gram.use_loss=true", "crops.gram_teacher_crops_size=64")


def test_the_teacher_starts_as_the_student_and_is_frozen() -> None:
    arch = SSLMetaArch(tiny_training("student.drop_path_rate=0.3"))
    assert arch.teacher is arch.model_ema
    assert same_weights(arch.student, arch.model_ema)
    assert not any(p.requires_grad for p in arch.teacher.parameters())
    rates = [[b.sample_drop_ratio for b in side["backbone"].blocks] for side in (arch.student, arch.teacher)]
    assert rates == [[0.3, 0.3], [0.0, 0.0]]


def test_modes() -> None:
    arch = SSLMetaArch(tiny_training())
    assert arch.train() is arch
    assert (arch.student.training, arch.model_ema.training, arch.model_ema["backbone"].training) == (
        True,
        False,
        False,
    )
    assert not arch.eval().student.training  # raises in the official code


def test_no_tensor_is_twice_in_the_state() -> None:
    arch = SSLMetaArch(tiny_training())
    tops = {key.split(".")[0] for key in arch.state_dict()}
    assert tops == {"student", "model_ema", "dino_loss", "ibot_patch_loss"}


def test_ema_moves_the_teacher() -> None:
    arch = SSLMetaArch(tiny_training())
    name = "backbone.blocks.0.attn.proj.weight"
    before = arch.model_ema.state_dict()[name].clone()
    arch.student.get_parameter(name).data += 1
    arch.after_step(0, momentum=0.75)
    torch.testing.assert_close(arch.model_ema.state_dict()[name], before + 0.25)


def test_built_on_meta_and_initialised_later() -> None:
    arch = SSLMetaArch(tiny_training("student.mask_k_bias=true", "student.n_storage_tokens=1"), device="meta")
    assert all(value.is_meta for value in arch.state_dict().values())
    arch.to_empty(device="cpu")
    for value in arch.state_dict().values():
        value.fill_(float("nan"))
    arch.init_weights()
    assert all(value.isfinite().all() for value in arch.state_dict().values())
    assert same_weights(arch.student, arch.model_ema)
    loss, _ = arch.train().forward_backward(collated(), teacher_temp=0.05)
    assert loss.isfinite()


# ---- distillation -------------------------------------------------------------------------------


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.yaml"
    OmegaConf.save(tiny_training(*LARGER), path)
    return path


def distilling(teacher_file: Path, checkpoint: str = "ignore", *overrides: str) -> SSLMetaArch:
    return SSLMetaArch(
        tiny_training(
            "distillation.enabled=true",
            f"distillation.full_cfg_path={teacher_file}",
            f"distillation.checkpoint_path={checkpoint}",
            *overrides,
        )
    )


def test_a_larger_frozen_teacher(teacher_file: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    large = SSLMetaArch(tiny_training(*LARGER))
    torch.save({"teacher": large.teacher.state_dict()}, tmp_path / "teacher.pth")
    arch = distilling(teacher_file, str(tmp_path / "teacher.pth")).train()
    assert same_weights(arch.teacher, large.teacher)
    assert arch.teacher["backbone"].embed_dim == 64
    assert arch.student["backbone"].embed_dim == 32
    assert same_weights(arch.student, arch.model_ema)

    data = collated()
    targets = arch.get_teacher_output(
        data["collated_global_crops"], mask_indices_list=torch.tensor([0]), teacher_temp=0.05
    )
    scores = large.teacher["dino_head"](large.teacher["backbone"](data["collated_global_crops"]))
    wanted = arch.dino_loss.sinkhorn_knopp_teacher(scores, 0.05)
    torch.testing.assert_close(targets["cls_centered"].flatten(0, 1), wanted)

    arch.forward_backward(data, teacher_temp=0.05)
    arch.student["backbone"].cls_token.data += 1
    arch.after_step(0, momentum=0.5)
    assert same_weights(arch.teacher, large.teacher)  # frozen
    assert not same_weights(arch.model_ema, arch.student)  # the EMA of the student


def test_with_distillation_the_student_sees_no_mask(teacher_file: Path) -> None:
    """docs/spec.md 0, fact 19; the iBOT loss still compares the masked patches."""
    arch = distilling(teacher_file)
    data = collated()
    student, _ = arch.get_student_output(
        global_crops=data["collated_global_crops"],
        local_crops=data["collated_local_crops"],
        masks=data["collated_masks"],
    )
    plain = arch.student["backbone"](data["collated_global_crops"], is_training=True)["x_norm_patchtokens"]
    torch.testing.assert_close(student["patch_pre_head"], plain)
    assert len(student["masked_patch_after_head"]) == data["collated_masks"].sum()


def test_a_teacher_of_larger_crops(teacher_file: Path) -> None:
    """Crops twice as large: the student sees them at half size; targets are means of four patches."""
    arch = distilling(teacher_file, "ignore", "crops.teacher_to_student_resolution_scale=2.0").train()
    data = collated()
    data["collated_global_crops"] = collated(gram_size=(64, 96))["collated_gram_teacher_crops"]
    data["collated_local_crops"] = data["collated_local_crops"].repeat(1, 1, 2, 2)
    loss, metrics = arch.forward_backward(data, teacher_temp=0.05)

    teacher = arch.teacher["backbone"](data["collated_global_crops"], is_training=True)
    patches = teacher["x_norm_patchtokens"].view(8, 2, 2, 3, 2, -1).mean((2, 4)).flatten(1, 2)
    scores = arch.teacher["ibot_head"](patches[data["collated_masks"]])
    smaller = nn.functional.interpolate(
        data["collated_global_crops"], scale_factor=0.5, mode="bicubic", antialias=True
    )
    student = arch.student["backbone"](smaller, is_training=True)["x_norm_patchtokens"]
    wanted = arch.ibot_patch_loss.forward_masked(
        arch.student["ibot_head"](student[data["collated_masks"]]),
        arch.ibot_patch_loss.sinkhorn_knopp_teacher(scores, 0.05),
        data["collated_masks"],
    )
    assert float(metrics["ibot_loss"]) == pytest.approx(wanted.item(), rel=1e-4)
    assert loss.isfinite()
    with pytest.raises(ConfigError, match="resolution_scale is 2; wanted 1, or more with"):
        tiny_training("crops.teacher_to_student_resolution_scale=2.0")


def test_distillation_needs_both_paths() -> None:
    with pytest.raises(ConfigError, match=r"needs distillation\.full_cfg_path"):
        tiny_training("distillation.enabled=true", "distillation.checkpoint_path=ignore")


def pair() -> tuple[nn.Module, nn.Module]:
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    teacher.weight.data, student.weight.data = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    student.running_mean = torch.tensor([7.0, 7.0])
    return teacher, student


def test_by_hand() -> None:
    teacher, student = pair()
    update_ema(teacher, student, 0.75)
    torch.testing.assert_close(teacher.weight.data, torch.tensor([1.5, 1.0]))
    assert student.weight.tolist() == [3.0, -2.0]
    assert teacher.running_mean.tolist() == [0, 0]  # a buffer


def test_zero_copies_exactly_and_one_changes_nothing() -> None:
    teacher, student = pair()
    update_ema(teacher, student, 1.0)
    assert teacher.weight.tolist() == [1.0, 2.0]
    update_ema(teacher, student, 0.0)
    assert torch.equal(teacher.weight, student.weight)


def test_parameters_are_matched_by_name() -> None:
    whole = nn.ModuleDict({"b": nn.Linear(1, 1), "a": nn.Linear(1, 1)})
    part = nn.ModuleDict({"a": nn.Linear(1, 1)})
    update_ema(part, whole, 0.0)
    assert torch.equal(part["a"].weight, whole["a"].weight)


RELEASED = (
    "student.n_storage_tokens=4",
    "student.mask_k_bias=true",
    "student.norm_layer=layernormbf16",
    "student.embed_dim=128",
)


OWN_GRAM = ("gram.use_loss=true", "crops.gram_teacher_crops_size=64")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[SSLMetaArch, Path]:
    """A run with the options of the released models, and its teacher.pth."""
    torch.manual_seed(1)
    arch = SSLMetaArch(tiny_training(*RELEASED))
    for block in arch.teacher["backbone"].blocks:
        nn.init.normal_(block.attn.qkv.bias)  # timm's layout drops biases that are zero
    path = tmp_path_factory.mktemp("run") / "teacher.pth"
    torch.save({"teacher": arch.teacher.state_dict()}, path)
    return arch, path


@pytest.mark.parametrize("layout", ["official", "hf", "timm"])
def test_a_backbone_without_heads(layout: str, run_file: tuple[SSLMetaArch, Path], tmp_path: Path) -> None:
    """Released files have no heads (facebookresearch/dinov3 #23, #207)."""
    earlier, path = run_file
    source = tmp_path / {"official": "backbone.pth", "hf": "folder", "timm": "model.safetensors"}[layout]
    save_checkpoint(load_checkpoint(path), layout, source)
    arch = SSLMetaArch(tiny_training(*RELEASED, f"student.pretrained_weights={source}"))
    wanted, got = earlier.teacher["backbone"], arch.student["backbone"]
    for key in ("cls_token", "storage_tokens", "blocks.1.mlp.fc2.weight", "norm.bias"):
        assert torch.equal(got.state_dict()[key], wanted.state_dict()[key]), key
    assert same_weights(arch.student, arch.model_ema)
    assert not same_weights(arch.student["dino_head"], earlier.teacher["dino_head"])


def test_a_teacher_with_heads(run_file: tuple[SSLMetaArch, Path]) -> None:
    earlier, path = run_file
    arch = SSLMetaArch(tiny_training(*RELEASED, f"student.resume_from_teacher_chkpt={path}"))
    assert same_weights(arch.student, earlier.teacher)
    assert same_weights(arch.model_ema, earlier.teacher)


def test_a_gram_teacher_from_a_file(run_file: tuple[SSLMetaArch, Path]) -> None:
    earlier, path = run_file
    arch = SSLMetaArch(tiny_training(*RELEASED, *OWN_GRAM, f"gram.ckpt={path}"))
    assert arch.gram_teacher is not None
    wanted = earlier.teacher["backbone"].state_dict()
    got = arch.gram_teacher["backbone"].state_dict()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted if "periods" not in key)
    assert not same_weights(arch.gram_teacher["backbone"], arch.model_ema["backbone"])


def test_files_that_do_not_fit(run_file: tuple[SSLMetaArch, Path], tmp_path: Path) -> None:
    earlier, path = run_file
    with pytest.raises(KeyMismatch, match="tensors missing"):
        SSLMetaArch(tiny_training(*RELEASED, "student.depth=3", f"student.pretrained_weights={path}"))
    torch.save(earlier.teacher["backbone"].state_dict(), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="no entry 'teacher'"):
        SSLMetaArch(tiny_training(*RELEASED, f"student.resume_from_teacher_chkpt={tmp_path / 'bare.pth'}"))
    with pytest.raises(ConfigError, match="choose one"):
        tiny_training("student.pretrained_weights=a", "student.resume_from_teacher_chkpt=b")


EMA = ("gram.use_loss=true", "gram.ema_teacher=true", "gram.rep_update=false")
OWN = ("gram.use_loss=true", "gram.it_load_ema_teacher=0", "crops.gram_teacher_crops_size=64")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- resizing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bicubic", "bilinear", "area", "nearest"])
def test_resizing_keeps_rows_and_columns(method: str) -> None:
    """A map that rises along rows still does on another off-square grid."""
    anchor = GramAnchor(tiny_training(*EMA, f"gram.global_teacher_resize_method={method}"))
    rising = torch.arange(4.0)[:, None].expand(4, 6).reshape(1, 24, 1)
    resized = anchor.resize(rising, (4, 6), (2, 3)).view(2, 3)
    assert (resized[1] > resized[0] + 1).all()
    torch.testing.assert_close(resized[:, 0], resized[:, 2])


def test_bilinear_by_hand_and_antialias() -> None:
    rising = torch.arange(4.0).view(1, 4, 1)
    plain = GramAnchor(tiny_training(*EMA, "gram.global_teacher_resize_method=bilinear"))
    assert plain.resize(rising, (1, 4), (1, 2)).flatten().tolist() == [0.5, 2.5]
    smooth = GramAnchor(
        tiny_training(
            *EMA,
            "gram.global_teacher_resize_method=bilinear",
            "gram.global_teacher_resize_antialias=true",
        )
    )
    wider = smooth.resize(rising, (1, 4), (1, 2)).flatten()
    assert wider.tolist() == pytest.approx([5 / 7, 16 / 7])  # weights 3 3 1 of 7, mirrored


def test_equal_grids_change_nothing() -> None:
    x = draw(2, 6, 4)
    assert GramAnchor(tiny_training(*EMA)).resize(x, (2, 3), (2, 3)) is x


# ---- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("used", ["all", "masked", "unmasked"])
def test_tokens_used(used: str) -> None:
    anchor = GramAnchor(tiny_training(*EMA, f"gram.tokens_used={used}", "gram.compute_stats=true"))
    student, target, masks = draw(8, 6, 4), draw(8, 6, 4, seed=1), make_masks(8, 6)
    chosen = {"all": torch.ones_like(masks), "masked": masks, "unmasked": ~masks}
    plain = GramLoss(img_level=False, remove_neg=False)
    losses = anchor.losses(student, target, masks)
    torch.testing.assert_close(losses["gram_loss"], plain(student[chosen[used]], target[chosen[used]]))
    for name in ("masked", "unmasked"):
        wanted = plain(student[chosen[name]], target[chosen[name]])
        torch.testing.assert_close(losses[f"stats_only/{name}_gram_loss"], wanted)


def test_no_masked_patch_at_all() -> None:
    anchor = GramAnchor(tiny_training(*EMA, "gram.tokens_used=masked"))
    student = draw(2, 6, 4).requires_grad_()
    loss = anchor.losses(student, draw(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool))["gram_loss"]
    loss.backward()
    assert loss.item() == 0


# ---- refreshes ----------------------------------------------------------------------------------


def renewals(*overrides: str) -> list[int]:
    anchor = GramAnchor(tiny_training(*OWN, "gram.update_frequency=3", *overrides))
    return [iteration for iteration in range(20) if anchor.is_refreshed_after(iteration)]


def test_when_it_is_refreshed() -> None:
    """After every multiple of the frequency from the first update on, at most `max_updates` times."""
    assert renewals() == [2, 5, 8, 11, 14, 17]
    assert renewals("gram.it_first_update=7") == [8, 11, 14, 17]
    assert renewals("gram.it_first_update=9") == [8, 11, 14, 17]
    assert renewals("gram.it_first_update=7", "gram.max_updates=2") == [8, 11]
    assert renewals("gram.max_updates=3") == [2, 5, 8]
    assert renewals("gram.rep_update=false") == []


def test_the_gram_stage_of_the_7b() -> None:
    """Every 10,000 from 1,010,000, three times (docs/spec.md 4.1)."""
    anchor = GramAnchor(
        tiny_training(
            *OWN, "gram.update_frequency=10000", "gram.it_first_update=1010000", "gram.max_updates=3"
        )
    )
    at = [i for i in range(999_999, 1_100_000, 10_000) if anchor.is_refreshed_after(i)]
    assert at == [1_009_999, 1_019_999, 1_029_999]


# ---- in a step ----------------------------------------------------------------------------------


def test_own_teacher_in_a_step() -> None:
    torch.manual_seed(0)
    arch = SSLMetaArch(tiny_training(*OWN, "gram.loss_weight=2.0")).train()
    data = collated(gram_size=(64, 96))
    loss, metrics = arch.forward_backward(data, teacher_temp=0.05)
    plain = SSLMetaArch(tiny_training())
    plain.load_state_dict({k: v for k, v in arch.state_dict().items() if not k.startswith("gram_teacher")})
    without, _ = plain.forward_loss(data, teacher_temp=0.05)
    assert float(metrics["gram_loss"]) > 0
    assert metrics["gram_loss_weight"] == 2
    assert loss.item() == pytest.approx(without.item() + 2 * float(metrics["gram_loss"]), rel=1e-5)

    patches = arch.gram_teacher["backbone"](data["collated_gram_teacher_crops"], is_training=True)  # type: ignore[index]
    target = arch.gram.resize(patches["x_norm_patchtokens"], (4, 6), (2, 3))  # type: ignore[union-attr]
    _, student, _ = (
        None,
        *arch.get_student_output(
            global_crops=data["collated_global_crops"],
            local_crops=data["collated_local_crops"],
            masks=data["collated_masks"],
        ),
    )
    wanted = GramLoss(img_level=False, remove_neg=False)(student["patch_pre_head"], target)
    assert float(metrics["gram_loss"]) == pytest.approx(wanted.item(), rel=1e-5)


def test_ema_teacher_needs_no_gram_crops() -> None:
    arch = SSLMetaArch(tiny_training(*EMA)).train()
    _, metrics = arch.forward_backward(collated(), teacher_temp=0.05)
    assert arch.gram_teacher is None
    assert float(metrics["gram_loss"]) > 0


def test_missing_gram_crops() -> None:
    with pytest.raises(ValueError, match="no collated_gram_teacher_crops"):
        SSLMetaArch(tiny_training(*OWN)).forward_loss(collated(), teacher_temp=0.05)


def test_the_gram_teacher_is_refreshed_in_training() -> None:
    arch = SSLMetaArch(
        tiny_training(*OWN[:1], OWN[2], "gram.it_load_ema_teacher=1", "gram.update_frequency=3")
    )

    def behind() -> bool:
        pairs = zip(
            arch.gram_teacher["backbone"].parameters(),  # type: ignore[index]
            arch.model_ema["backbone"].parameters(),
            strict=True,
        )
        return any(not torch.equal(a, b) for a, b in pairs)

    seen = []
    for iteration in range(4):
        arch.before_step(iteration)
        seen.append(behind())
        for parameter in arch.student.parameters():
            parameter.data += 0.1
        arch.after_step(iteration, momentum=0.5)
    # equal at first; copied before step 1; then older; refreshed after step 2
    assert seen == [False, False, True, False]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("gram.ema_teacher=true", "gram.ckpt=x", "gram.rep_update=false"),
            "ema_teacher and gram.ckpt are both given",
        ),
        (("gram.ema_teacher=true",), "set gram.rep_update=false"),
        (
            ("gram.ema_teacher=true", "gram.rep_update=false", "crops.gram_teacher_crops_size=64"),
            "remove crops.gram_teacher_crops_size",
        ),
        (("gram.it_load_ema_teacher=0",), "needs crops.gram_teacher_crops_size"),
        ((*OWN[1:], "gram.tokens_used=masked", "gram.img_level=true"), "set gram.img_level=false"),
        ((*OWN[1:], "gram.remove_neg=true", "gram.remove_only_teacher_neg=true"), "choose one"),
    ],
)
def test_contradictions(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_training("gram.use_loss=true", *overrides)
