"""train-head --lora and --unfreeze: from a folder of images to a judged bundle that predicts them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dinodeploy
from dinodeploy.errors import MisuseError, OutputExistsError, UnavailableError
from dinodeploy.heads.fine_tune import FineTuneJob, fine_tune, identity, read_labels
from tests.support.tiny_models import tiny_config

SIDE = 32
WORDS = ("epochs=4", "batch_size=8", "lr=3e-3", "head_lr=1e-2", "crop_scale=0.9,1", "flip=false")
GOALS = {"classify": "accuracy", "multilabel": "f1", "segment": "mean_iou", "regress": "r2"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint

    folder = tmp_path_factory.mktemp("base") / "hf"
    save_checkpoint(random_checkpoint(tiny_config(depth=2, embed_dim=64, num_heads=1)), "hf", folder)
    return folder


def stripes(label: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    rows = np.tile(np.repeat([40, 220], 2), SIDE // 4)[:, None] + rng.normal(0, 12, (SIDE, SIDE))
    grey = (rows if label else rows.T).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([grey] * 3, axis=-1))


def write_data(folder: Path, task: str, count: int = 40) -> Path:
    lines = [["file", "rows", "columns"]]
    for index in range(count):
        label = index % 2
        below = {"classify": f"{'ab'[label]}/{index}.png", "segment": f"images/{index}.png"}
        path = folder / below.get(task, f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        stripes(label, index).save(path)
        if task == "segment":
            (folder / "masks").mkdir(exist_ok=True)
            Image.new("L", (SIDE, SIDE), label).save(folder / "masks" / f"{index}.png")
        lines.append([path.name, str(label), str(1 - label)])
    if task in ("multilabel", "regress"):
        with (folder / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    return folder


def job_of(base: Path, task: str, data: Path, out: Path, **changes: Any) -> FineTuneJob:
    job = FineTuneJob(task, data, out, str(base), lora=4, size=(SIDE, SIDE), device="cpu", settings=WORDS)
    return replace(job, **changes)


def right(task: str, row: dict[str, Any]) -> bool:
    label = int(Path(row["id"]).stem) % 2
    if task == "classify":
        return bool(row["classes"][0]["class"] == "ab"[label])
    if task == "multilabel":
        return [one["class"] for one in row["classes"]] == [("columns", "rows")[label]]
    if task == "segment":
        return bool(row["shares"].get(str(label), 0) > 0.5)
    return bool((row["values"]["rows"] > 0.5) == bool(label))


LATER = ("segment", "regress")
TASKS = ["multilabel", *(pytest.param(task, marks=pytest.mark.slow) for task in LATER)]


@pytest.mark.parametrize("task", TASKS)
def test_predictions_of_the_bundle_have_the_scores(task: str, base: Path, tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data", task), tmp_path / "out"
    tests = write_data(tmp_path / "tests", task, 10)
    made = fine_tune(job_of(base, task, data, out, test=tests))
    assert made.report[GOALS[task]] > 0.8
    assert made.report["pictures"] == {"train": 32, "validation": 8, "test": 10}
    assert not list((out / "run").glob("best-*"))
    bundle = dinodeploy.export(out, tmp_path / "bundle", imgsz=(SIDE, SIDE))
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    metrics = {m.metric for m in bundle.receipt.measurements}
    assert ("class_agreement" in metrics) == (task != "regress")
    assert "head_error" in metrics
    images = [tests / ("images" if task == "segment" else ".")]
    dinodeploy.predict(*images, engine=bundle.root, out=tmp_path / "predictions", device="cpu")
    lines = (tmp_path / "predictions" / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 10
    assert sum(right(task, row) for row in rows) >= 8
    with pytest.raises(OutputExistsError, match="holds a complete model"):
        fine_tune(job_of(base, task, data, out))


@pytest.mark.slow
def test_the_adapter_alone_needs_its_head_and_the_head_its_adapter(base: Path, tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data", "classify", 20), tmp_path / "out"
    fine_tune(job_of(base, "classify", data, out, settings=("epochs=1", "batch_size=8")))
    head = out / "adapter" / "head.safetensors"
    with pytest.raises(MisuseError, match="give that as --adapter"):
        dinodeploy.export(base, tmp_path / "wrong", head=str(head), imgsz=(SIDE, SIDE))
    made = dinodeploy.export(
        base, tmp_path / "bundle", adapter=out / "adapter", head=str(head), imgsz=(SIDE, SIDE)
    )
    assert made.manifest.head is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "detect"}, "task is 'detect'"),
        ({"settings": ("speed=2",)}, "is no setting"),
        ({"unfreeze": 2}, "one of --lora RANK and --unfreeze"),
        ({"lora": None, "unfreeze": 3}, "has 2 blocks"),
        ({"size": (30, 32)}, "multiple of the patch size"),
        ({"weights": "hub"}, "which model"),
        ({"weights": "nowhere.pth"}, "does not exist"),
        ({"data": Path("nowhere")}, "is not a folder"),
        ({"out": Path("x.safetensors")}, "a name without a suffix"),
    ],
)
def test_what_does_not_fit_is_one_line(
    changes: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", "classify", 10)
    with pytest.raises(Exception, match=message) as error:
        fine_tune(replace(job_of(base, "classify", data, tmp_path / "out"), **changes))
    assert error.value.exit_code == 2  # type: ignore[attr-defined]
    assert "\n" not in str(error.value)


def test_a_foreign_folder_is_not_touched(base: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "classify", 10)
    with pytest.raises(OutputExistsError, match="holds no training"):
        fine_tune(job_of(base, "classify", data, data, overwrite=True))
    assert len(list(data.rglob("*.png"))) == 10


def test_without_torchvision_the_message_says_what_to_install(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr("dinodeploy.hardware.packages.import_module", missing)
    with pytest.raises(UnavailableError, match=r"needs torchvision.*dinodeploy\[train\]"):
        fine_tune(job_of(base, "classify", tmp_path, tmp_path / "out"))


def test_the_identity_of_data_ignores_names_and_order(tmp_path: Path) -> None:
    one, other = (write_data(tmp_path / name, "classify", 8) for name in ("one", "other"))
    (other / "a" / "0.png").rename(other / "a" / "z.png")
    assert identity(read_labels("classify", one)) == identity(read_labels("classify", other))
    (other / "a" / "z.png").rename(other / "b" / "z.png")
    assert identity(read_labels("classify", one)) != identity(read_labels("classify", other))


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill_later(command: list[str], out: Path, number: int, environment: dict[str, str]) -> None:
    """Start the command, send the signal after two more epochs, and check its exit code."""

    def steps() -> int:
        return max((int(path.name) for path in (out / "run" / "ckpt").glob("[0-9]*")), default=0)

    before = steps()
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    ) as run:
        until(lambda: steps() > before + 8)
        run.send_signal(number)
        code = run.wait(60)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bytes(base: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "classify")

    def command(out: str) -> list[str]:
        words = [part for word in (*WORDS[1:], "epochs=14", "patience=0") for part in ("--set", word)]
        options = ["--task", "classify", "--data", str(data), "--lora", "4", "--weights", str(base)]
        more = ["--imgsz", str(SIDE), "--device", "cpu", "--out", str(tmp_path / out), "--json"]
        return [sys.executable, "-m", "dinodeploy", "train-head", *options, *words, *more]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, capture_output=True, env=environment)
    kill_later(command("cut"), tmp_path / "cut", signal.SIGKILL, environment)
    kill_later(command("cut"), tmp_path / "cut", signal.SIGTERM, environment)
    subprocess.run(command("cut"), check=True, capture_output=True, env=environment)
    files = ("model.safetensors", "adapter/adapter_model.safetensors")
    for name in files:
        digests = {hashlib.sha256((tmp_path / out / name).read_bytes()).digest() for out in ("whole", "cut")}
        assert len(digests) == 1, name
