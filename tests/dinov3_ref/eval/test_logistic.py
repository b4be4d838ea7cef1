"""Logistic regression against scikit-learn's at equal C (docs/spec.md 5.3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from dinov3_ref.eval import logistic
from dinov3_ref.eval.labelled import split_off
from dinov3_ref.eval.logistic import CS, fit_logistic, sweep
from dinov3_ref.heads import load_head
from tests.support.images.image_files import write_folder
from tests.support.images.labelled_features import digits
from tests.support.tiny_models import tiny_config


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["logistic", *map(str, arguments), "--json"])
    logistic.main()
    return json.loads(capsys.readouterr().out)


def reference(x: Any, y: Any, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(np.asarray(x, np.float64), np.asarray(y))


def test_the_grid_is_the_published_one() -> None:
    assert len(CS) == 45
    assert [CS[0], CS[24], CS[-1]] == pytest.approx([1e-6, 1.0, 1e5])


@pytest.mark.parametrize("c", [1e-3, 1.0, 30.0])
def test_the_optimum_is_that_of_scikit_learn(c: float) -> None:
    """Weights agree to about 1e-4 of the largest; scikit-learn stops on its own tolerance."""
    train, test = digits()
    x, y = train.features[:400], train.labels[:400]
    fitted = fit_logistic(x, y, 10, c)
    expected = reference(x, y, c)
    weight, bias = torch.tensor(expected.coef_.T), torch.tensor(expected.intercept_)
    assert (fitted.weight - weight).abs().max() < 2e-4 * weight.abs().max()
    centred = fitted.bias - fitted.bias.mean(), bias - bias.mean()
    torch.testing.assert_close(*centred, atol=2e-3, rtol=1e-3)
    assert (fitted.scores(test.features).argmax(1).numpy() == expected.predict(test.features)).all()


def test_a_warm_start_changes_nothing() -> None:
    train, _ = digits()
    x, y = train.features[:300], train.labels[:300]
    cold = fit_logistic(x, y, 10, 1.0)
    warm = fit_logistic(x, y, 10, 1.0, fit_logistic(x, y, 10, 0.1))
    torch.testing.assert_close(cold.weight, warm.weight, atol=2e-5, rtol=1e-3)


def test_several_classes_per_image_are_binary_regressions() -> None:
    train, _ = digits()
    x = train.features[:300]
    truth = torch.stack([train.labels[:300] > 4, train.labels[:300] % 2 == 0], dim=1)
    fitted = fit_logistic(x, truth, 2, 0.5)
    for column in range(2):
        expected = reference(x, truth[:, column], 0.5)
        error = (fitted.weight[:, column] - torch.tensor(expected.coef_[0])).abs().max()
        assert error < 5e-4 * np.abs(expected.coef_).max()


def test_the_sweep_chooses_what_scikit_learn_would() -> None:
    train, _ = digits()
    few, held = train.rows(torch.arange(120)), train.rows(torch.arange(800, 1200))
    cs = (1e-5, 1e-2, 1.0, 100.0)
    scores = [reference(few.features, few.labels, c).score(held.features, held.labels) for c in cs]
    best, score = sweep(few, held, cs)
    assert best == cs[int(np.argmax(scores))]
    assert score == pytest.approx(100 * max(scores), abs=0.3)


def test_files_are_fitted_on_all_and_the_head_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = digits()
    train = train.rows(torch.arange(300))
    for name, one in (("train", train), ("test", test)):
        np.savez(tmp_path / f"{name}.npz", cls=one.features.numpy(), labels=one.labels.numpy())
    paths = "--train", tmp_path / "train.npz", "--test", tmp_path / "test.npz", tmp_path / "train.npz"
    found = run(monkeypatch, capsys, *paths, "--C", 1.0, "--out", tmp_path / "out")
    expected = reference(train.features, train.labels, 1.0).score(test.features, test.labels)
    first = tmp_path / "test.npz"
    assert found[f"{first}: Top 1"] == pytest.approx(
        100 * expected, abs=0.2
    )  # on training and validation rows
    assert found[f"{tmp_path / 'train.npz'}: Top 1"] > 97
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (report["evaluation"], report["results"]) == ("logistic", found)
    assert report["settings"]["C"] == [1.0]
    head = load_head(tmp_path / "out" / "head.safetensors").head
    (logits,) = head(test.features)
    top1 = 100 * (logits.argmax(1) == test.labels).double().mean().item()
    assert top1 == pytest.approx(found[f"{first}: Top 1"])
    assert head.inputs == ("cls",)


def test_a_checkpoint_few_shot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(random_checkpoint(tiny_config()), "official", tmp_path / "model.safetensors")
    photos = write_folder(tmp_path / "photos")
    found = run(
        monkeypatch, capsys, "--weights", tmp_path / "model.safetensors", "--train", photos, "--test", photos,
        "--val", photos, "--size", 32, "--C", 0.1, 10, "--shots", 1, "--tries", 2,
    )  # fmt: skip
    assert list(found) == ["C", "C std", "Top 1", "Top 1 std", "Top 5", "Top 5 std"]


def test_the_split_holds_out_a_share_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 20 + [2])
    train, held = split_off(labels, 0.1)
    assert torch.bincount(labels[held], minlength=3).tolist() == [5, 2, 0]
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(71))


def test_bad_options_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", cls=np.eye(2), labels=[0, 1])
    both = "--train", tmp_path / "x.npz", "--test", tmp_path / "x.npz"
    for extra, words in ((("--C", 0), "--C 0; wanted numbers above 0"), ((), "give --val")):
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, capsys, *both, *extra)
        assert ended.value.code == 2
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_options_are_pinned() -> None:
    options = {option for action in logistic.parser()._actions for option in action.option_strings}
    assert options == {
        "-h", "--help", "--train", "--test", "--weights", "--size", "--resize", "--batch", "--workers",
        "--device", "--autocast", "--out", "--json", "--class-map", "--true-labels", "--metric", "--val",
        "--C", "--seed", "--shots", "--tries",
    }  # fmt: skip
