"""kNN against numbers worked out by hand, and against scikit-learn (docs/spec.md 5.1)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from dinov3_ref.errors import DataError
from dinov3_ref.eval import knn
from dinov3_ref.eval.knn import class_scores, knn_accuracy, nearest
from dinov3_ref.eval.labelled import Labelled, few_shot
from tests.support.images.image_files import write_folder
from tests.support.tiny_models import tiny_config
from tests.support.training.ranks import run_on_ranks


def labelled(
    features: Any, labels: Any, names: tuple[str, ...] = ("a", "b"), source: str = "train"
) -> Labelled:
    return Labelled(torch.as_tensor(features, dtype=torch.float32), torch.as_tensor(labels), names, source)


def at(*degrees: float) -> list[list[float]]:
    return [[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]


def test_scores_by_hand() -> None:
    """Weights .5 .3 .2 of classes 1 0 1: class 0 scores .3, class 1 .7."""
    scores = class_scores(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[1, 0, 1]]), 3)
    torch.testing.assert_close(scores, torch.tensor([[0.3, 0.7, 0.0]]))


def test_neighbours_by_hand() -> None:
    """A test at 0°; a at 10°, b at 20° and 25°. k=1 gives a. With k=3 and temperature 0.07 a's weight is
    exp(.9848 / .07) against b's exp(.9397 / .07) + exp(.9063 / .07): .54 of all, still a. At temperature 1
    it is about a third: b."""
    train = labelled(at(10, 20, 25), [0, 1, 1])
    test = labelled(at(0), [0], source="test")
    sharp = [math.exp(math.cos(math.radians(d)) / 0.07) for d in (10, 20, 25)]
    assert sharp[0] / sum(sharp) == pytest.approx(0.5403, abs=1e-4)
    assert knn_accuracy(train, test, ks=[1, 3]) == {
        1: {"top1": 100.0, "top5": 100.0},
        3: {"top1": 100.0, "top5": 100.0},
    }
    assert knn_accuracy(train, test, ks=[1, 3], temperature=1.0)[3]["top1"] == 0.0
    assert knn_accuracy(train, test, ks=[1, 3], temperature=1.0)[1]["top1"] == 100.0


def test_the_norm_of_a_feature_does_not_matter() -> None:
    train = labelled([[10.0, 1.0], [0.1, 0.1]], [0, 1])
    test = labelled([[0.5, 0.4]], [1], source="test")
    assert knn_accuracy(train, test, ks=[1])[1]["top1"] == 100.0


def digits() -> tuple[Labelled, Labelled]:
    x, y = load_digits(return_X_y=True)
    names = tuple(map(str, range(10)))
    return labelled(x[:1200], y[:1200], names), labelled(x[1200:], y[1200:], names, "test")


@pytest.mark.parametrize("chunk", [2**26, 1200 * 7])
def test_against_scikit_learn(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and in chunks of 7 rows. With one k the softmax is over those k: weights exp(cosine / 0.07)."""
    monkeypatch.setattr(knn, "MAX_SIMILARITIES", chunk)
    train, test = digits()
    for k in (1, 10, 50):
        independent = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
        independent.fit(train.features.double().numpy(), train.labels.numpy())
        expected = 100 * independent.score(test.features.double().numpy(), test.labels.numpy())
        assert knn_accuracy(train, test, ks=[k])[k]["top1"] == pytest.approx(expected, abs=1e-6)


def test_top_five_and_several_ks() -> None:
    train, test = digits()
    found = knn_accuracy(train, test)
    assert list(found) == [10, 20, 100, 200]
    assert all(95 < one["top1"] <= one["top5"] <= 100 or k > 20 for k, one in found.items())
    assert found[200]["top5"] > found[200]["top1"]


def test_several_classes_by_hand() -> None:
    """Tests at 0° and 90°; k=1 scores by the nearest: (1,1) and (0,1). Class a: its one image comes first,
    precision 1. Class b: scores tie at 1, the first in order is the test at 0°, which is not b: precision
    1/2. The mean is 75 %; a class c that no test image has does not count."""
    train = labelled(at(1, 89), [[True, True, False], [False, True, True]], ("a", "b", "c"))
    test = labelled(at(0, 90), [[True, False, False], [False, True, False]], ("a", "b", "c"), "test")
    assert knn_accuracy(train, test, ks=[1]) == {1: {"mAP": pytest.approx(75.0)}}


def test_several_classes_against_scikit_learn() -> None:
    """One-hot labels of digits, k=20: scikit-learn's macro average precision of the same scores."""
    train, test = digits()
    several = [
        Labelled(one.features, F.one_hot(one.labels).bool(), one.class_names, one.source)
        for one in (train, test)
    ]
    ((similarity, labels),) = nearest(train, test.features, 20)
    scores = class_scores(torch.softmax(similarity / 0.07, 1), labels, 10)
    expected = 100 * average_precision_score(several[1].labels.numpy(), scores.numpy(), average="macro")
    found = knn_accuracy(*several, ks=[20])[20]["mAP"]
    assert found == pytest.approx(expected, abs=0.05)  # they treat equal scores otherwise
    with pytest.raises(DataError, match="several classes"):
        few_shot(several[0], 3, 0)


def on_this_rank() -> dict[str, Any]:
    train, test = digits()
    shares = train.share(), test.share()
    found = knn_accuracy(*shares, ks=[1, 10, 700], skip_first=True)
    return {str(k): torch.tensor(list(v.values())) for k, v in found.items()} | {
        "size": torch.tensor(len(shares[0]))
    }


def test_ranks_agree_with_one_process(tmp_path: Path) -> None:
    """Three ranks with 400 training images each, so that no rank has all 700 neighbours."""
    ranks = run_on_ranks(on_this_rank, 3, tmp_path)
    alone = on_this_rank()
    assert [int(rank.pop("size")) for rank in ranks] == [400, 400, 400]
    assert int(alone.pop("size")) == 1200
    for rank in ranks:
        torch.testing.assert_close(rank, alone, rtol=0, atol=1e-9)


def test_skip_first_leaves_out_the_image_itself() -> None:
    train = labelled(at(0, 1, 90), [0, 1, 0])
    assert knn_accuracy(train, train, ks=[1])[1]["top1"] == 100.0
    assert knn_accuracy(train, train, ks=[1], skip_first=True)[1]["top1"] == 0.0


def test_classes_are_matched_by_name() -> None:
    train = labelled(at(0, 90), [0, 1], ("cat", "dog"))
    test = labelled(at(80), [0], ("dog",), "test")
    assert knn_accuracy(train, test, ks=[1])[1]["top1"] == 100.0


def test_few_shot_draws_the_same_number_per_class() -> None:
    train, _ = digits()
    assert torch.bincount(few_shot(train, 3, 0).labels).tolist() == [3] * 10
    share = torch.bincount(few_shot(train, 0.1, 0).labels)
    assert torch.equal(share, (torch.bincount(train.labels) * 0.1).round().long())
    assert not torch.equal(few_shot(train, 3, 0).features, few_shot(train, 3, 1).features)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (([[1.0, 0]] * 2, [0, 1]), ([[1.0, 0]], [0]), "k of 3 needs 3 training images, 'train' has 2"),
        (([[1.0, 0]] * 3, [0, 0, 0], ("a",)), ([[1.0, 0]], [0], ("a",)), "'train' has one class, 'a'"),
        (
            ([[1.0, 0]] * 3, [0, 1, 0]),
            ([[1.0, 0]], [0], ("c",)),
            "1 classes that 'train' lacks, for example 'c'",
        ),
    ],
)
def test_mismatched_sets_are_refused(train: Any, test: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        knn_accuracy(labelled(*train), labelled(*test, source="test"), ks=[3])


# ---- the command --------------------------------------------------------------------------------


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[str, str]:
    monkeypatch.setattr("sys.argv", ["knn", *map(str, arguments)])
    knn.main()
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_checkpoint(random_checkpoint(tiny_config()), "official", path)
    return path


def test_a_checkpoint_on_photographs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Test images are the training images: the nearest is right. A broken image is skipped."""
    write_folder(tmp_path / "photos")
    (tmp_path / "photos" / "still" / "broken.jpg").write_bytes(b"\xff\xd8")
    photos = tmp_path / "photos"
    out, err = run(
        monkeypatch, capsys, "--weights", checkpoint, "--train", photos, "--test", photos, "--size", 64,
        "--k", 1, 6, "--json", "--out", tmp_path / "out",
    )  # fmt: skip
    results = json.loads(out)
    assert list(results) == ["1 Top 1", "1 Top 5", "6 Top 1", "6 Top 5"]
    assert results["1 Top 1"] == 100.0
    assert err == ""
    assert (tmp_path / "out" / "results-knn.csv").read_text().splitlines()[
        0
    ] == "1 Top 1,1 Top 5,6 Top 1,6 Top 5"
    assert json.loads((tmp_path / "out" / "eval_config.json").read_text())["size"] == 64


def test_files_few_shot_and_a_small_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = digits()
    for name, one in (("train", train), ("test", test)):
        np.savez(tmp_path / f"{name}.npz", cls=one.features.numpy(), labels=one.labels.numpy())
    out, err = run(
        monkeypatch, capsys, "--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz", "--shots", 5
    )
    assert err == "50 training images: k is 10, 20\n"
    lines = dict(line.rsplit("  ", 1) for line in out.splitlines())
    assert {name.strip() for name in lines} == {
        f"{k} Top {n}{end}" for k in (10, 20) for n in (1, 5) for end in ("", " std")
    }
    assert 75 < float(lines["10 Top 1    "]) < 95


def test_an_error_is_one_line_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, capsys, "--train", tmp_path / "none.npz", "--test", tmp_path / "none.npz")
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: '")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", 100), "--size 100 is not a multiple of the patch size; wanted a multiple of 16"),
        (("--device", "nowhere"), "device 'nowhere' cannot be used; wanted cpu"),
        (("--k", 7), "k of 7 needs 7 training images"),
        (("--k", 1, "--size", 32, "--out", "photos/still/coffee.jpg/out"), "Not a directory"),
    ],
)
def test_bad_options_are_refused(
    arguments: tuple[object, ...],
    words: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, capsys, "--weights", checkpoint, "--train", "photos", "--test", "photos", *arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_options_are_pinned() -> None:
    options = {option for action in knn.parser()._actions for option in action.option_strings}
    assert options == {
        "-h", "--help", "--train", "--test", "--weights", "--size", "--batch", "--workers", "--device",
        "--autocast", "--out", "--json", "--k", "--temperature", "--skip-first", "--shots", "--tries",
        "--class-map", "--true-labels", "--metric",
    }  # fmt: skip
