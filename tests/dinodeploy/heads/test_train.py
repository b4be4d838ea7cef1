"""Training on engine features: better than chance, reproducible, readable by torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.heads.train import TrainOptions, train_head
from tests.support.images.labelled_images import SCENES, write_digits, write_scenes


@pytest.fixture(scope="module")
def embedder(four_maps_bundle: Path):
    with Embedder.open(four_maps_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data") / "digits", each=20)


def test_digits_are_classified(embedder: Embedder, digits: Path) -> None:
    """Random weights: measured 0.925 with cls_mean, 0.1 is chance."""
    trained = train_head(embedder, digits, TrainOptions("classify"))
    report = trained.report
    assert report["chance"] == pytest.approx(0.1)
    assert report["accuracy"] > 0.7
    assert np.array(report["confusion"]).sum() == report["pictures"]["test"] == 40
    assert sum(report["pictures"].values()) == 200
    assert trained.file.tensors["linear.weight"].shape == (10, 256)
    again = train_head(embedder, digits, TrainOptions("classify"))
    assert (again.file.tensors["linear.weight"] == trained.file.tensors["linear.weight"]).all()


def test_torch_reads_the_head_file(embedder: Embedder, digits: Path, tmp_path: Path) -> None:
    import torch

    from dinov3_ref.heads import LinearClassifier, load_head

    trained = train_head(embedder, digits, TrainOptions("classify", pooling="cls"))
    trained.file.write(tmp_path / "head.safetensors")
    loaded = load_head(tmp_path / "head.safetensors")
    assert isinstance(loaded.head, LinearClassifier)
    assert loaded.head.classes[3] == "digit_3"
    assert loaded.backbone_sha256 == embedder.manifest.model.sha256
    assert loaded.trained["accuracy"] == trained.report["accuracy"]
    found = embedder.embed([digits / "digit_3" / "000.png"])
    logits = loaded.head(torch.from_numpy(found["cls"]))[0].detach().numpy()
    wanted = found["cls"] @ trained.file.tensors["linear.weight"].T + trained.file.tensors["linear.bias"]
    assert np.allclose(logits, wanted, atol=1e-4)


def test_a_test_folder_is_scored(embedder: Embedder, digits: Path, tmp_path: Path) -> None:
    held = write_digits(tmp_path / "held", each=4)
    report = train_head(embedder, digits, TrainOptions("classify"), test=held).report
    assert report["pictures"] == {"train": 160, "validation": 40, "test": 40}


def test_scenes_are_segmented(embedder: Embedder, tmp_path: Path) -> None:
    """Random weights: measured pixel accuracy 0.95, chance is 0.36."""
    root = write_scenes(tmp_path / "scenes", 16)
    (root / "images" / "99.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("L", (8, 8)).save(root / "masks" / "99.png")
    Image.new("L", (8, 8)).save(root / "masks" / "03.png")  # another size than its image
    trained = train_head(embedder, root, TrainOptions("segment"))
    assert trained.report["classes"] == list(SCENES)
    assert trained.report["accuracy"] > trained.report["chance"] + 0.2
    assert trained.report["mean_iou"] > 0.4
    assert sum(trained.report["pictures"].values()) == 15
    reasons = [reason for _, reason in trained.quarantined]
    assert len(reasons) == 2
    assert any("8x8 pixels, its image has 160x120" in reason for reason in reasons)
    assert trained.file.tensors["conv.weight"].shape == (4, 128, 1, 1)


def test_bad_options_and_data_are_refused(embedder: Embedder, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="--task 'detect'"):
        TrainOptions("detect")
    with pytest.raises(MisuseError, match="--pooling 'max'"):
        TrainOptions("classify", pooling="max")
    few = write_digits(tmp_path / "few", each=2, kinds=2)
    with pytest.raises(MisuseError, match="class 'digit_0' has 2 readable images; wanted at least 3"):
        train_head(embedder, few, TrainOptions("classify"))
    for path in few.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(MisuseError, match="none of 4 images can be read"):
        train_head(embedder, few, TrainOptions("classify"))
    scenes = write_scenes(tmp_path / "scenes", 4)
    (scenes / "classes.txt").write_text("a\nb\n")
    with pytest.raises(MisuseError, match=r"a mask holds the class id 3; classes\.txt names 2"):
        train_head(embedder, scenes, TrainOptions("segment"))
    for path in (scenes / "masks").iterdir():
        Image.new("L", (160, 120), 1).save(path)
    with pytest.raises(MisuseError, match=r"the masks hold 1 class\(es\); wanted at least two"):
        train_head(embedder, scenes, TrainOptions("segment"))
    with pytest.raises(MisuseError, match="--test is for --task classify"):
        train_head(embedder, scenes, TrainOptions("segment"), test=digits)
