"""Whole runs: they learn, resume bit by bit, keep the best weights, and end early."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.checkpoint.filesystem import FileSystemReader

from dinov3_ref.adapt.options import FineTuneOptions
from dinov3_ref.adapt.result import write_result
from dinov3_ref.adapt.run import FineTuneRun, score
from dinov3_ref.adapt.set_up import Facts, set_up
from dinov3_ref.checkpoints import build_model, load_checkpoint, random_checkpoint
from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import head_beside, load_head
from dinov3_ref.train.logging.run_log import read_metrics
from tests.support.tiny_models import tiny_config

CPU = torch.device("cpu")
SIDE = 32
TINY = tiny_config(depth=2, embed_dim=32, num_heads=1)
FACTS = {
    "classify": Facts(counts=(12, 12)),
    "multilabel": Facts(counts=(12, 12), total=24),
    "segment": Facts(counts=(100, 100)),
    "regress": Facts(mean=(0.5, 2.0), std=(0.5, 1.0)),
}


class Stripes:
    """Rows or columns of stripes with their target; for training as images, to score as pixels."""

    def __init__(self, task: str, count: int, seed: int, pixels: bool) -> None:
        self.task, self.count, self.seed, self.pixels = task, count, seed, pixels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        rng = np.random.default_rng((self.seed, index))
        label = index % 2
        stripes = np.tile(np.repeat([40, 220], 2), SIDE // 4)[:, None] + rng.normal(0, 12, (SIDE, SIDE))
        grey = (stripes if label else stripes.T).clip(0, 255).astype(np.uint8)
        rgb = np.stack([grey] * 3, axis=-1)
        targets: dict[str, Any] = {
            "classify": label,
            "multilabel": np.array([label, 1 - label], np.float32),
            "segment": np.full((SIDE, SIDE), label, np.int64),
            "regress": np.array([label, 1 + 2 * label], np.float32),
        }
        image = (
            (rgb.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32) if self.pixels else Image.fromarray(rgb)
        )
        return image, targets[self.task]


def run_of(folder: Path, task: str = "classify", **changes: Any) -> FineTuneRun:
    options = FineTuneOptions(
        **{
            **{"task": task, "height": SIDE, "width": SIDE, "batch_size": 8, "epochs": 3, "head_lr": 1e-2},
            **{"lr": 3e-3, "crop_scale": (0.9, 1.0), "flip": False, "log_period": 1, "patience": 0},
            **({"lora": 4} if "unfreeze" not in changes else {}),
            **changes,
        }
    )
    checkpoint = replace(random_checkpoint(TINY), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    head, objective = set_up(checkpoint, ("rows", "columns"), options, FACTS[task])
    data = Stripes(task, 24, 0, pixels=False), Stripes(task, 16, 1, pixels=True)
    return FineTuneRun(checkpoint, head, objective, options, *data, folder, CPU)


EPOCHS = {"classify": 5, "multilabel": 5, "segment": 8, "regress": 8}
GOALS = {"classify": 0.9, "multilabel": 0.9, "segment": 0.8, "regress": 0.6}


WAYS = [
    pytest.param({"lora": 4}, id="lora"),
    pytest.param({"unfreeze": 2, "lr": 1e-3}, id="unfreeze", marks=pytest.mark.slow),
]


QUICK = ("classify", "multilabel")
TRIED = [task if task in QUICK else pytest.param(task, marks=pytest.mark.slow) for task in GOALS]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("task", TRIED)
def test_every_task_learns(task: str, how: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", task, epochs=EPOCHS[task], **how)
    run.train()
    scores = score(run.arch, run.validation, run.options, CPU).scores()
    assert scores[run.objective.metric] > GOALS[task]
    assert scores[run.objective.metric] == pytest.approx(run.evaluation.best, abs=1e-6)
    write_result(run.arch, run.checkpoint, tmp_path, {"epochs": 8}, "ours")
    loaded = load_checkpoint(tmp_path)
    beside = head_beside(loaded)
    assert beside is not None
    assert (beside.licence, beside.trained, beside.head.classes) == (
        "ours",
        {"epochs": 8},
        ("rows", "columns"),
    )
    pixels = torch.from_numpy(run.validation[0][0])[None]
    run.arch.eval()
    with torch.no_grad():
        wanted = run.arch.predict(pixels)
        run.arch.student["backbone"], run.arch.student["head"] = build_model(loaded), beside.head
        assert torch.allclose(run.arch.predict(pixels), wanted, atol=1e-5)
    if "lora" in how:
        adapter_head = load_head(tmp_path / "adapter" / "head.safetensors")
        assert adapter_head.trained["adapter_sha256"]
        assert adapter_head.backbone_sha256 == run.checkpoint.sha256


class Stopped(Exception):
    pass


RESUMED = [
    pytest.param({"lora": 2, "lora_dropout": 0.2}, id="lora", marks=pytest.mark.slow),
    pytest.param({"unfreeze": 1, "drop_path": 0.3}, id="unfreeze"),
]


@pytest.mark.parametrize("how", RESUMED)
def test_a_killed_run_resumes_bit_by_bit(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_of(tmp_path / "whole", **how)
    whole.train()
    cut = run_of(tmp_path / "cut", **how)
    step = cut.step

    def until(batches: Any, iteration: int, rates: Any) -> Any:
        if iteration == 4:  # in the second epoch, after a checkpoint
            raise Stopped
        return step(batches, iteration, rates)

    monkeypatch.setattr(cut, "step", until)
    monkeypatch.setattr(until, "optimizer", step.optimizer, raising=False)
    monkeypatch.setattr(until, "scaler", step.scaler, raising=False)
    with pytest.raises(Stopped):
        cut.train()
    resumed = run_of(tmp_path / "cut", **how)
    resumed.train()
    for name, tensor in whole.arch.trained_state().items():
        assert torch.equal(tensor, resumed.arch.trained_state()[name]), name
    losses = [[row["total_loss"] for row in read_metrics(tmp_path / run)] for run in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 9
    written = FileSystemReader(tmp_path / "cut" / "ckpt" / "8").read_metadata().state_dict_metadata
    tensors = {name.removeprefix("model.") for name in written if name.startswith("model.")}
    assert tensors == whole.arch.trained_names()  # not the frozen backbone


def test_other_options_or_data_are_another_run(tmp_path: Path) -> None:
    run_of(tmp_path)
    run_of(tmp_path, workers=0, log_period=2)
    with pytest.raises(ConfigError, match=r"holds a run with lr 0\.003, this one has 0\.5"):
        run_of(tmp_path, lr=0.5)


def test_the_best_weights_are_kept_and_training_ends_early(tmp_path: Path) -> None:
    run = run_of(tmp_path, epochs=9, patience=2)
    values = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    states = []
    evaluate = run.evaluation.run

    def planned(networks: Any, iteration: int, file: Any) -> dict[str, float]:
        states.append(networks.trained_state())
        networks.objective.tally = lambda: Fixed(next(values))
        return evaluate(networks, iteration, file)

    run.evaluation.run = planned  # type: ignore[method-assign]
    run.train()
    assert len(states) == 4  # two without a better one after the second
    for name, tensor in run.arch.trained_state().items():
        assert torch.equal(tensor, states[1][name])
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-000005.safetensors"]
    assert len(read_metrics(tmp_path, "evaluations.json")) == 4
    assert json.loads((tmp_path / "options.json").read_text())["patience"] == 2


class Fixed:
    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, output: Any, target: Any) -> None:
        pass

    def scores(self) -> dict[str, float]:
        return {"balanced_accuracy": self.value}
