from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dinodeploy
from dinodeploy.errors import MisuseError
from dinov3_ref.errors import CheckpointError
from exporters.text.source import load_source
from tests.support.checkpoint_files import write_official
from tests.support.text.tiny_text import VOCABULARY, tiny_dinotxt


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root, loaded = tmp_path_factory.mktemp("files"), tiny_dinotxt()
    torch.save(dict(loaded.state), root / "head.pth")
    return write_official(root / "backbone.pth", loaded.backbone), root / "head.pth"


def load(weights: str, **changes: Any) -> Any:
    options: dict[str, Any] = {"arch": None, "head": None, "vocab": VOCABULARY, **changes}
    return load_source(weights, options.pop("arch"), None, 0, {}, **options)


def test_a_backbone_and_a_head_file(files: tuple[Path, Path]) -> None:
    backbone, head = files
    checkpoint, origin, text = load(str(backbone), head=str(head))
    assert origin == "file"
    assert checkpoint.config.embed_dim == 128
    assert text.facts.source == "head.pth"
    assert text.facts.context_length == 77
    assert text.facts.depth == 3


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        ("random", {}, "needs --arch"),
        ("random", {"arch": "vit_small", "head": "head.pth"}, "no --head"),
        ("random", {"arch": "vit_small", "adapter": "adapter"}, "no --adapter"),
        ("hub", {"arch": "vit_large"}, "needs --arch, and --head"),
        ("hub", {"head": "head.pth"}, "needs --arch, and --head"),
        ("whole.pth", {"weights_key": "teacher"}, "leave it out with --vocab"),
    ],
)
def test_options_that_do_not_fit(weights: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        load(weights, **changes)


def test_another_vocabulary_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("comment\ni n\n")
    with pytest.raises(CheckpointError, match="has 1 merges, this model needs 3,000"):
        load(str(files[0]), head=str(files[1]), vocab=tmp_path / "short.txt")


def test_the_exports_own_refusals(files: tuple[Path, Path], tmp_path: Path) -> None:
    backbone, head = map(str, files)
    with pytest.raises(CheckpointError, match="needs --vocab"):
        dinodeploy.export(backbone, tmp_path / "bundle", head=head)
    with pytest.raises(MisuseError, match="--backbone-outputs is for dino"):
        dinodeploy.export(backbone, tmp_path / "bundle", backbone_outputs=True)
    assert not (tmp_path / "bundle").exists()
