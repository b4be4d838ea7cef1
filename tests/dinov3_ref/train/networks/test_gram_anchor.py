"""Gram anchoring: resizing to the student's grid, chosen tokens, refreshes of the teacher.

Source: docs/spec.md 4.7.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinov3_ref.errors import ConfigError
from dinov3_ref.loss import GramLoss
from dinov3_ref.train.networks.gram_anchor import GramAnchor
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from tests.support.toy_training import collated, make_masks, tiny_training

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
        (("crops.gram_teacher_crops_size=64",), "needs gram.ckpt"),
        ((*OWN[1:], "gram.tokens_used=masked", "gram.img_level=true"), "set gram.img_level=false"),
        ((*OWN[1:], "gram.remove_neg=true", "gram.remove_only_teacher_neg=true"), "choose one"),
    ],
)
def test_contradictions(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_training("gram.use_loss=true", *overrides)
