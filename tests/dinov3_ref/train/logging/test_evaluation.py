"""Periodic evaluation: equal to the kNN command, and without effect on training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dinov3_ref.data import build_training_loader
from dinov3_ref.errors import ConfigError, DataError
from dinov3_ref.eval import knn
from dinov3_ref.train.logging.evaluation import PeriodicEvaluation, pca_colours
from dinov3_ref.train.logging.run_log import read_metrics
from dinov3_ref.train.loop import TrainingRun
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.training.ranks import run_on_ranks
from tests.support.training.toy_training import tiny_run, tiny_training

CLASSES = ("dark", "light")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/, each with five crops of photographs in two classes: darkened, and lightened."""
    root = tmp_path_factory.mktemp("labelled")
    for number, name in enumerate(list(PHOTOGRAPHS)[:5]):
        for split, left in (("train", 0), ("test", 60)):
            crop = photograph(name).crop((left, 10, left + 60, 60))
            for kind, factor in zip(CLASSES, (0.5, 1.2), strict=True):
                path = root / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                crop.point(lambda value, factor=factor: int(min(255, value * factor))).save(path)
    return root


def configure(photos: Path, output: Path, *overrides: str) -> Any:
    return tiny_run(
        photos,
        output,
        "optim.epochs=3",
        "student.drop_path_rate=0.4",
        *overrides,
    )


def looking(labelled: Path, photos: Path) -> tuple[str, ...]:
    return (
        "evaluation.eval_period_iterations=4",
        f"evaluation.train_dataset_path={labelled / 'train'}",
        f"evaluation.test_dataset_path={labelled / 'test'}",
        f"evaluation.pictures_path={photos}",
        "evaluation.crop_size=48",
        "evaluation.pictures=3",
    )


def train(config: Any) -> None:
    TrainingRun(config, build_training_loader(config)).train()


@pytest.fixture(scope="module")
def watched(photos: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six iterations, evaluated after the fourth and the sixth."""
    output = tmp_path_factory.mktemp("watched")
    train(configure(photos, output, *looking(labelled, photos)))
    return output


def test_training_is_not_affected(watched: Path, photos: Path, tmp_path: Path) -> None:
    """Bit-equal losses and weights, with drop-path."""
    train(configure(photos, tmp_path / "unwatched"))
    alone, seen = (
        [r["total_loss"] for r in read_metrics(path)] for path in (tmp_path / "unwatched", watched)
    )
    assert alone == seen
    assert len(seen) == 6
    ours, theirs = (
        load_file(path / "teacher" / "model.safetensors") for path in (tmp_path / "unwatched", watched)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics(tmp_path / "unwatched", "evaluations.json") == []
    assert not (tmp_path / "unwatched" / "pictures").exists()


def test_it_equals_the_knn_command(
    watched: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fourth, last = read_metrics(watched, "evaluations.json")
    assert (fourth["iteration"], last["iteration"]) == (3, 5)
    argv = [
        "knn", "--weights", watched / "teacher" / "model.safetensors", "--train", labelled / "train",
        "--test", labelled / "test", "--size", 48, "--k", 10,
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", [*map(str, argv)])
    knn.main()
    top1 = float(capsys.readouterr().out.splitlines()[0].split()[-1])
    assert last["knn_10_top1"] == pytest.approx(top1, abs=0.005)
    assert set(last) == {"iteration", "knn_10_top1", "knn_10_top5"}


def test_pca_and_curve_images(watched: Path) -> None:
    """Three images and their PCA maps, 48 px each with a gap of 4; one colour per patch of 16 px."""
    assert sorted(path.name for path in (watched / "pictures").iterdir()) == [
        "pca_000003.png",
        "pca_000005.png",
    ]
    sheet = torch.tensor(list(Image.open(watched / "pictures" / "pca_000005.png").get_flattened_data()))
    pixels = sheet.view(104, 156, 3)
    first_map = pixels[52:100, :48]
    patches = first_map.view(3, 16, 3, 16, 3)
    assert (patches == patches[:, :1, :, :1]).all()
    assert len(patches[:, 0, :, 0].flatten(0, 1).unique(dim=0)) > 4
    assert (pixels[48:52] == 255).all()


def run_on_this_rank(photos: str, labelled: str, output: str) -> None:
    train(
        configure(
            Path(photos),
            Path(output),
            *looking(Path(labelled), Path(photos)),
            "optim.epochs=1",
            "optim.warmup_epochs=0",
            "teacher.warmup_teacher_temp_epochs=1",
            "compute_precision.sharding_strategy=FULL_SHARD",
        )
    )


@pytest.mark.slow
def test_two_sharded_ranks(photos: Path, labelled: Path, tmp_path: Path) -> None:
    """Five images per class on two ranks: the teacher is gathered, accuracies are over all images."""
    (tmp_path / "ranks").mkdir()
    run_on_ranks(run_on_this_rank, 2, tmp_path / "ranks", str(photos), str(labelled), str(tmp_path / "run"))
    found = read_metrics(tmp_path / "run", "evaluations.json")[-1]
    frozen = [
        "knn", "--weights", tmp_path / "run" / "teacher" / "model.safetensors", "--train", labelled / "train",
        "--test", labelled / "test", "--size", 48, "--k", 10, "--json",
    ]  # fmt: skip
    alone = knn.evaluate(knn.parser().parse_args([str(word) for word in frozen[1:]]))
    assert found["knn_10_top1"] == pytest.approx(alone["10 Top 1"])


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["evaluation.train_dataset_path=x"], ConfigError, "kNN needs both"),
        (["evaluation.pictures_path=/none"], DataError, "is not a dataset"),
        (
            ["evaluation.pictures_path=/x", "evaluation.crop_size=50"],
            ConfigError,
            "multiple of 16",
        ),
        (["evaluation.eval_period_iterations=-1"], ConfigError, "0 for never"),
    ],
)
def test_errors_are_raised_before_training(overrides: list[str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PeriodicEvaluation(tiny_training(*overrides), torch.device("cpu"), 10)


def test_when_it_is_due(photos: Path) -> None:
    config = tiny_training("evaluation.eval_period_iterations=4", f"evaluation.pictures_path={photos}")
    due = PeriodicEvaluation(config, torch.device("cpu"), 10).is_due_after
    assert [n for n in range(10) if due(n)] == [3, 7, 9]
    config.evaluation.eval_period_iterations = 0
    assert not any(map(due, range(10)))


def test_the_first_component_is_red() -> None:
    """Features on a line: red grows along it, from nothing to full; green and blue have nothing to show."""
    line = torch.arange(40.0).view(2, 20, 1) * torch.tensor([1.0, 3.0, -2.0, 0.0, 0.5])
    colours = pca_colours(line)
    assert colours.shape == (2, 20, 3)
    red = colours[..., 0].flatten()
    assert (red.diff() >= 0).all()
    assert (red[0], red[-1]) == (0, 1)
    torch.testing.assert_close(red[[10, 29]], torch.tensor([9.22, 28.22]) / 37.44)  # quantiles .78, 38.22


def test_signs_do_not_flip() -> None:
    """Features turned by a hair, so that the solver may choose other signs, give nearly the same colours."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 30, 8, generator=generator) * torch.arange(1, 9)
    for seed in range(5):
        noise = 1e-5 * torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(pca_colours(features + noise), pca_colours(features), rtol=0, atol=1e-3)


def test_equal_features_are_no_error() -> None:
    assert pca_colours(torch.ones(1, 4, 8)).isfinite().all()
