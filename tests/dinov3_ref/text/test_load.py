from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3_ref.checkpoints import random_checkpoint
from dinov3_ref.errors import CheckpointError, ForeignCheckpoint, KeyMismatch
from dinov3_ref.text import LoadedDinoTxt, load_dinotxt
from tests.support.checkpoint_files import official_state, write_official
from tests.support.text.tiny_text import tiny_dinotxt
from tests.support.tiny_models import tiny_config, tiny_convnext


@pytest.fixture(scope="module")
def model() -> LoadedDinoTxt:
    return tiny_dinotxt()


@pytest.fixture(scope="module")
def backbone(model: LoadedDinoTxt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("backbone") / "backbone.pth", model.backbone)


@pytest.fixture(scope="module")
def head(model: LoadedDinoTxt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.pth"
    torch.save(dict(model.state), path)
    return path


def whole_file(
    model: LoadedDinoTxt, path: Path, change: Callable[[dict[str, Any]], object] = lambda _: None
) -> Path:
    vit = {f"visual_model.backbone.{key}": tensor for key, tensor in official_state(model.backbone).items()}
    tree: dict[str, Any] = {**vit, **model.state}
    change(tree)
    torch.save(tree, path)
    return path


def same(one: LoadedDinoTxt, other: LoadedDinoTxt) -> bool:
    pairs: list[tuple[Any, Any]] = [(one.state, other.state), (one.backbone.state, other.backbone.state)]
    return one.config == other.config and all(
        set(left) == set(right) and all(torch.equal(left[key], right[key]) for key in left)
        for left, right in pairs
    )


def test_two_files(model: LoadedDinoTxt, backbone: Path, head: Path) -> None:
    loaded = load_dinotxt(backbone, head)
    assert same(loaded, model)
    assert loaded.source == "head.pth"
    assert len(loaded.sha256) == 64


def test_one_file(model: LoadedDinoTxt, tmp_path: Path) -> None:
    loaded = load_dinotxt(whole_file(model, tmp_path / "whole.pth"))
    assert same(loaded, model)
    assert not any("left out" in note for note in loaded.notes)
    with torch.inference_mode():
        ids = torch.tensor([[1, 2, 3]])
        assert torch.equal(loaded.build().encode_text(ids), model.build().encode_text(ids))


def test_names_of_wrappers_are_taken_off(model: LoadedDinoTxt, backbone: Path, tmp_path: Path) -> None:
    path = tmp_path / "ddp.pth"
    torch.save({"model": {f"module.{key}": tensor for key, tensor in model.state.items()}}, path)
    assert same(load_dinotxt(backbone, path), model)


def test_the_wrong_half_is_refused(model: LoadedDinoTxt, backbone: Path, head: Path, tmp_path: Path) -> None:
    whole = whole_file(model, tmp_path / "whole.pth")
    for weights, given, message in (
        (head, None, "without a backbone; give it as --head"),
        (backbone, None, "holds a backbone; wanted dino.txt's visual_model.backbone"),
        (head, backbone, "holds a backbone; wanted dino.txt's visual_model.head"),
        (backbone, whole, "holds a backbone too; give it as --weights, without --head"),
        (head, head, "text tower"),
        (tmp_path / "nothing.pth", head, "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            load_dinotxt(weights, given)
        assert "\n" not in str(error.value)


def test_halves_of_two_models(head: Path, tmp_path: Path) -> None:
    wide = write_official(tmp_path / "wide.pth", random_checkpoint(tiny_config("7b")))
    with pytest.raises(ForeignCheckpoint, match=r"reads tokens of 128 channels, .*wide\.pth gives 256"):
        load_dinotxt(wide, head)
    convnext = tmp_path / "convnext.pth"
    torch.save(dict(random_checkpoint(tiny_convnext()).state), convnext)
    with pytest.raises(ForeignCheckpoint, match="is a ConvNeXt"):
        load_dinotxt(convnext, head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.pop("logit_scale"), "1 tensors missing"),
        (lambda tree: tree.update(more=torch.zeros(1)), "1 left over"),
        (lambda tree: tree.update(logit_scale=torch.tensor(1.0)), r"logit_scale expected \[1\] found \[\]"),
        (lambda tree: tree["logit_scale"].fill_(torch.nan), "NaN or infinity"),
        (lambda tree: tree.pop("text_model.backbone.blocks.1.ffn_norm.bias"), "ffn_norm.bias"),
        (lambda tree: tree.pop("visual_model.head.ln_final.weight"), "it is missing"),
    ],
)
def test_tensors_are_checked(
    model: LoadedDinoTxt, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    def on_copies(tree: dict[str, Tensor]) -> None:
        tree.update({key: tensor.clone() for key, tensor in tree.items()})
        change(tree)

    with pytest.raises(KeyMismatch, match=message):
        load_dinotxt(whole_file(model, tmp_path / "whole.pth", on_copies))
