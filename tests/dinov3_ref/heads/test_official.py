"""The classifier of a fine-tuned model, read from the file that also holds its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3_ref.checkpoints import random_checkpoint
from dinov3_ref.errors import CheckpointError
from dinov3_ref.heads import LinearClassifier, load_head
from tests.support.checkpoint_files import TINY_VITS

CHECKPOINT = random_checkpoint(TINY_VITS["mlp"])
D = CHECKPOINT.config.embed_dim


def linear(width: int, stem: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"{stem}.weight": torch.randn(3, width), f"{stem}.bias": torch.randn(3)}


def tuned(stem: str, width: int, prefix: str = "backbone.") -> dict[str, Tensor]:
    return {**{prefix + key: value for key, value in CHECKPOINT.state.items()}, **linear(width, stem)}


@pytest.mark.parametrize("stem", ["linear_head", "head", "classifier", "fc", "model.head.fc"])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_the_classifier_of_a_fine_tuned_model(tmp_path: Path, stem: str, wrapper: str | None) -> None:
    prefix = "model.backbone." if stem.startswith("model.") else "backbone."
    tree: Any = tuned(stem, 2 * D, prefix)
    torch.save({wrapper: tree} if wrapper else tree, tmp_path / "tuned.pth")
    loaded = load_head(tmp_path / "tuned.pth")
    assert isinstance(loaded.head, LinearClassifier)
    assert loaded.notes == ("read the classifier beside the backbone",)
    wanted = linear(2 * D, stem)
    assert torch.equal(loaded.head.linear.weight, wanted[f"{stem}.weight"])
    assert torch.equal(loaded.head.linear.bias, wanted[f"{stem}.bias"])


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (tuned("classifier", D), f"reads {D} features, CLS or the mean patch token"),
        (tuned("decoder.conv", 2 * D), "2 tensors beside its backbone, such as decoder.conv.weight"),
        ({**tuned("head", 2 * D), **linear(2 * D, "aux.head")}, "4 tensors beside its backbone"),
        ({k: v for k, v in tuned("head", 2 * D).items() if k != "head.bias"}, "1 tensors beside its"),
    ],
)
def test_heads_that_are_not_clear_are_refused(tmp_path: Path, tree: dict[str, Tensor], words: str) -> None:
    torch.save(tree, tmp_path / "tuned.pth")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_head(tmp_path / "tuned.pth")
    assert "\n" not in str(caught.value)
