"""The command of linear depth (docs/spec.md 5.6)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3_ref.eval import depth
from dinov3_ref.eval.depth import scale_invariant
from dinov3_ref.heads import LinearDepth, load_head
from tests.support.images.dense_layouts import slope, write_nyu

TOY = Path(__file__).parents[3] / "examples" / "models" / "toy_vit"
SMALL = ("--crop-size", 48, 64, "--border", "none")


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["depth", *map(str, arguments), "--json"])
    depth.main()
    return json.loads(capsys.readouterr().out)


def test_from_nyu_to_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Better than the best constant; the written head gives the same scores, in two sizes of image."""
    root = write_nyu(tmp_path / "nyu")
    train, val = f"NYU:split=TRAIN:root={root}", f"NYU:split=VAL:root={root}"
    found = run(
        monkeypatch, capsys, "--weights", TOY, "--train", train, "--test", val, *SMALL,
        "--steps", 200, "--batch", 2, "--lr", 0.01, "--out", tmp_path / "out",
    )  # fmt: skip
    assert list(found)[:6] == ["rmse", "abs_rel", "log_10", "a1", "a2", "a3"]
    truth = slope(0)[3:] / 1000
    assert found["rmse"] < 0.8 * truth.std()
    path = tmp_path / "out" / "head.safetensors"
    assert isinstance(load_head(path).head, LinearDepth)
    again = run(monkeypatch, capsys, "--weights", TOY, "--head", path, "--test", val)
    assert again == pytest.approx(found)
    other = run(
        monkeypatch, capsys, "--weights", TOY, "--head", path, "--test", val, "--size", 70, 90, "--no-flip",
        "--crop", "none",
    )  # fmt: skip
    assert other["rmse"] == pytest.approx(found["rmse"], abs=0.2)
    assert other["rmse"] != found["rmse"]


def test_the_loss_by_hand() -> None:
    """Var(g) + 0.15 Mean(g)², without the variance in the first 100 steps; 0 is unknown."""
    rng = np.random.default_rng(0)
    made, truth = rng.uniform(1, 5, (2, 1, 4, 5)), rng.uniform(1, 5, (2, 4, 5))
    truth[0, 0] = 0
    g = (np.log(made[:, 0] + 1e-3) - np.log(truth + 1e-3))[truth > 0]
    late = np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2)
    early = np.sqrt(0.15) * abs(g.mean())
    both = torch.tensor(made), torch.tensor(truth)
    assert scale_invariant(*both, 100).item() == pytest.approx(late)
    assert scale_invariant(*both, 99).item() == pytest.approx(early)
    assert scale_invariant(both[0], torch.zeros(2, 4, 5), 0).item() == 0.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--crop-size", 44, 64, "--train", "x"), "--crop-size 44; wanted a multiple of the patch size"),
        (("--unit", 0, "--head", "own"), "--unit 0.0; wanted a number above 0"),
        (("--head", "own"), "'x' is no dataset for depth"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[object, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, capsys, "--weights", TOY, "--test", "x", *arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_the_defaults_are_the_published_ones() -> None:
    options = depth.parser().parse_args(["--test", "x"])
    names = (
        "steps",
        "batch",
        "lr",
        "weight_decay",
        "crop_size",
        "bins",
        "min_depth",
        "max_depth",
        "unit",
        "crop",
    )
    assert [getattr(options, name) for name in names] == [
        38400, 16, 3e-4, 1e-4, [416, 544], 256, 0.001, 10.0, 1000.0, "eigen",
    ]  # fmt: skip


def test_options_are_pinned() -> None:
    options = {option for action in depth.parser()._actions for option in action.option_strings}
    assert options == {
        "-h", "--help", "--train", "--test", "--head", "--weights", "--size", "--batch", "--workers",
        "--device", "--autocast", "--out", "--json", "--layers", "--steps", "--lr", "--weight-decay",
        "--save-every", "--seed", "--resume", "--crop", "--crop-size", "--border", "--bins", "--min-depth",
        "--max-depth", "--unit", "--no-flip",
    }  # fmt: skip
