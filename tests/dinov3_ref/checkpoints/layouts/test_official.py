"""RoPE periods: the published values, the file's own, and those computed for want of any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3_ref.checkpoints import (
    load_checkpoint,
    random_checkpoint,
)
from dinov3_ref.checkpoints.layouts.official import rope_periods
from tests.support.checkpoint_files import TINY_VITS, write_official


def test_stored_periods_are_honoured(tmp_path: Path) -> None:
    odd = torch.arange(1, 17, dtype=torch.float32).to(torch.bfloat16)
    path = write_official(
        tmp_path / "a.pth",
        random_checkpoint(TINY_VITS["mlp"]),
        change=lambda s: s.update({"rope_embed.periods": odd}),
    )
    assert torch.equal(load_checkpoint(path, periods="fp32").state["rope_embed.periods"], odd.float())


@pytest.mark.parametrize("rounding", ["bf16", "fp32"])
def test_absent_periods_are_computed_as_asked(tmp_path: Path, rounding) -> None:
    path = write_official(
        tmp_path / "a.pth", random_checkpoint(TINY_VITS["mlp"]), change=lambda s: s.pop("rope_embed.periods")
    )
    loaded = load_checkpoint(path, periods=rounding)
    assert torch.equal(loaded.state["rope_embed.periods"], rope_periods(TINY_VITS["mlp"], rounding))
    assert any("RoPE periods: absent" in note for note in loaded.notes)


def test_rounded_periods_are_the_published_ones() -> None:
    published = [1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5]
    published += [10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75]  # docs/spec.md 2.2
    assert rope_periods(TINY_VITS["mlp"], "bf16").tolist() == published
