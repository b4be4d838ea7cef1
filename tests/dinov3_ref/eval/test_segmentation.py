"""The command of linear segmentation (docs/spec.md 5.4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import jaccard_score

from dinov3_ref.eval import segmentation
from dinov3_ref.eval.features import FrozenModel
from dinov3_ref.eval.segmentation import cross_entropy
from dinov3_ref.heads import load_head
from tests.support.images.dense_layouts import write_ade20k

TOY = Path(__file__).parents[3] / "examples" / "models" / "toy_vit"
SMALL = ("--size", 64, "--crop", 64, "--stride", 32)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["segmentation", *map(str, arguments), "--json"])
    segmentation.main()
    return json.loads(capsys.readouterr().out)


def test_from_ade20k_to_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, tested on two sets, written; the file gives the same scores, and scikit-learn agrees."""
    root = write_ade20k(tmp_path / "ade")
    val = f"ADE20K:split=VAL:root={root}"
    found = run(
        monkeypatch, capsys, "--weights", TOY, "--train", f"ADE20K:split=TRAIN:root={root}", "--test", val,
        f"ADE20K:root={root}", *SMALL, "--steps", 80, "--batch", 2, "--lr", 0.02, "--classes", 3,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert list(found)[:3] == [f"{val}: mIoU", f"{val}: mAcc", f"{val}: aAcc"]
    assert found[f"{val}: aAcc"] > 55  # of three classes
    path = tmp_path / "out" / "head.safetensors"
    again = run(monkeypatch, capsys, "--weights", TOY, "--head", path, "--test", val, *SMALL)
    assert again == pytest.approx({name: found[f"{val}: {name}"] for name in ("mIoU", "mAcc", "aAcc")})
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (report["evaluation"], report["settings"]["steps"]) == ("segmentation", 80)
    head = load_head(path)
    assert head.backbone_sha256 == FrozenModel.load(TOY).sha256
    assert again["mIoU"] == pytest.approx(reference(root, head.head), abs=1e-3)


def reference(root: Path, head: Any) -> float:
    """mIoU with windows, resize and IoU written anew: images of 64x80 give windows at 0 and 16."""
    frozen = FrozenModel.load(TOY, "cpu")
    truths, chosens = [], []
    for path in sorted((root / "images/validation").iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float64) / 255
        x = torch.tensor((pixels - frozen.mean) / frozen.std, dtype=torch.float32).permute(2, 0, 1)
        with torch.no_grad():
            windows = []
            for left in (0, 16):
                maps = frozen.outputs(x[None, :, :, left : left + 64], ["patch"])["patch"]
                logits = F.conv2d(F.batch_norm(
                    maps.permute(0, 3, 1, 2), head.batchnorm.running_mean, head.batchnorm.running_var,
                    head.batchnorm.weight, head.batchnorm.bias,
                ), head.conv.weight, head.conv.bias)  # fmt: skip
                windows.append(F.interpolate(logits, size=(64, 64), mode="bilinear")[0])
        total, times = torch.zeros(3, 64, 80), torch.zeros(80)
        for left, window in zip((0, 16), windows, strict=True):
            total[:, :, left : left + 64] += window
            times[left : left + 64] += 1
        ids = np.asarray(Image.open(root / "annotations/validation" / f"{path.stem}.png")).astype(int)
        truths.append(ids[ids > 0] - 1)
        chosens.append((total / times).argmax(0).numpy()[ids > 0])
    return 100 * jaccard_score(
        np.concatenate(truths), np.concatenate(chosens), average="macro", zero_division=0
    )


def test_ignored_pixels_count_in_the_denominator() -> None:
    """As published: the mean over all pixels; two of four are ignored."""
    scores = torch.zeros(1, 2, 2, 2)
    ids = torch.tensor([[[0, 1], [255, 255]]])
    torch.testing.assert_close(cross_entropy(scores, ids, 0), torch.tensor(2.0).log() / 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--test", "x"), "wanted --train DATASET to train a head, or --head FILE to test one"),
        (("--test", "x", "--head", "own", "--crop", 44), "--crop 44; wanted a multiple of the patch size"),
        (("--test", "x", "--head", "own", "--stride", 0), "wanted 0 < stride <= crop <= size"),
        (("--test", "x", "--head", "own"), "'x' is no dataset for segmentation"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[object, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, capsys, "--weights", TOY, *arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_without_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "--test", "x")
    assert "no model; give --weights" in capsys.readouterr().err


def test_the_defaults_are_the_published_ones() -> None:
    options = segmentation.parser().parse_args(["--test", "x"])
    names = ("steps", "batch", "lr", "weight_decay", "size", "crop", "stride", "dropout", "layers")
    assert [getattr(options, name) for name in names] == [40000, 16, 1e-3, 1e-3, 512, 512, 341, 0.1, ["last"]]


def test_options_are_pinned() -> None:
    options = {option for action in segmentation.parser()._actions for option in action.option_strings}
    assert options == {
        "-h", "--help", "--train", "--test", "--head", "--weights", "--size", "--batch", "--workers",
        "--device", "--autocast", "--out", "--json", "--layers", "--steps", "--lr", "--weight-decay",
        "--save-every", "--seed", "--resume", "--crop", "--stride", "--dropout", "--classes",
    }  # fmt: skip
