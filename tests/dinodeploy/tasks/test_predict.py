"""Predictions of a bundle's head from start to end: in memory, in a directory, after an interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder
from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.errors import MisuseError, OutputExistsError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.store.plan import Plan, write_plan
from dinodeploy.tasks.predict import (
    Predictor,
    PredictReport,
    RunOptions,
    head_of,
    predict_images,
    predictor_of,
)
from dinodeploy.tasks.prediction import Prediction, PredictOptions, Region
from tests.support.decode_rle import decode_mask
from tests.support.head_facts import head_facts
from tests.support.images.labelled_images import write_digits

STEPS = Preprocess.from_preset("official", (64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = write_digits(tmp_path / "images", each=1, kinds=2)
    Image.new("RGB", (90, 60), "grey").save(folder / "a_wide.png")
    (folder / "broken.png").write_bytes(b"x")
    return folder


def test_a_bundle_without_a_head_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(MisuseError, match="has no head; train one: dinodeploy train-head --engine"):
        head_of(open_bundle(tiny_bundle))


def test_a_head_of_features_is_refused(tiny_bundle: Path) -> None:
    bundle: Bundle = open_bundle(tiny_bundle)
    manifest = replace(bundle.manifest, head=head_facts("pyramid", outputs=("level_4", "level_8")))
    with pytest.raises(MisuseError, match="--outputs level_4,level_8"):
        head_of(replace(bundle, manifest=manifest))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "panoptic"}, "--task panoptic: this head does one task, classify"),
        ({"threshold": 0.5}, "--threshold: a head of the task classify finds no objects"),
    ],
)
def test_options_that_the_head_does_not_take(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        predictor_of(head_facts("classify"), STEPS, PredictOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch is 0; wanted at least 1"),
        ({"threads": 0}, "--threads is 0"),
        ({"time_limit": 0}, "--time-limit is 0; wanted more than 0 seconds"),
        ({"format": "xml", "out": Path("o")}, "--format 'xml' is unknown; wanted jsonl or coco"),
        ({"save": ("boxes",), "out": Path("o")}, "--save 'boxes' is unknown; wanted maps, overlays, or none"),
        ({"format": "coco"}, "--format coco writes files; give a directory for them with --out"),
        ({"save": ("maps",)}, "--save writes files"),
        ({"html": Path("page.html")}, "--html writes files"),
    ],
)
def test_impossible_runs_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        RunOptions(**options)


def of_patches(task: str) -> Callable[[Embedder, Preprocess], Predictor]:
    """Predictions from the patch map [h,w,D] of a bundle without a head: two classes, or objects."""

    def predict_one(outputs: Mapping[str, FloatArray], size: tuple[int, int]) -> Prediction:
        patches = outputs["patch"][..., 0]
        ids = np.asarray(Image.fromarray(patches > np.median(patches)).resize(size)).astype(np.int64)
        if task == "segment":
            return Prediction("segment", {"shares": {"sky": float(ids.mean())}}, ids)
        if task == "depth":
            return Prediction("depth", {"metres": {"median": 1.0}}, ids.astype(np.float32))
        if task == "classify":
            return Prediction("classify", {"classes": [{"class": "cat", "probability": 0.5}]})
        region = Region(1, "cup", 0.75, id=1)
        return Prediction(task, {}, ids, (region,) if ids.any() else ())

    return lambda embedder, steps: Predictor(task, ("patch",), ("sky", "cup"), predict_one)


@pytest.mark.parametrize("task", ["classify", "segment", "depth", "instance"])
def test_every_image_gets_a_row_or_a_reason(
    task: str, tiny_bundle: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    seen: list[dict[str, Any]] = []
    report = predict_images((str(images),), tiny_bundle, RunOptions(out), of_patches(task), each=seen.append)
    rows = list(report.rows)
    assert rows == seen == [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [one.id for one in report.quarantined] == [str(images / "broken.png")]
    assert json.loads((out / "quarantine.jsonl").read_text())["id"] == str(images / "broken.png")
    assert (report.predicted, report.kept, report.counts.seen) == (3, 0, 4)
    assert report.counts.adds_up
    assert (rows[0]["id"], rows[0]["width"], rows[0]["height"]) == (str(images / "a_wide.png"), 90, 60)
    kinds = {
        "segment": ("mask", "overlay"),
        "depth": ("depth", "overlay"),
        "instance": ("segments", "overlay"),
    }
    named = [row[kind] for row in rows for kind in kinds.get(task, ())]
    assert {path.name for path in out.iterdir()} == {*named, "predictions.jsonl", "quarantine.jsonl"}
    for kind in kinds.get(task, ()):
        with Image.open(out / rows[0][kind]) as image:
            assert image.size == (90, 60)
    if task == "instance":
        with Image.open(out / rows[0]["segments"]) as image:
            assert (decode_mask(rows[0]["regions"][0]["mask"]) == np.asarray(image)[..., 0]).all()


def test_without_a_directory_rows_are_in_memory(tiny_bundle: Path, images: Path) -> None:
    report = predict_images((str(images / "a_wide.png"),), tiny_bundle, RunOptions(), of_patches("segment"))
    (row,) = report.rows
    assert (report.out, sorted(row)) == (None, ["height", "id", "shares", "width"])


def test_rows_that_are_not_finite_are_quarantined(tiny_bundle: Path, images: Path) -> None:
    def damaged(embedder: Embedder, steps: Preprocess) -> Predictor:
        run = embedder.run
        embedder.run = lambda pixels: {name: value * np.nan for name, value in run(pixels).items()}  # type: ignore[method-assign]
        return of_patches("segment")(embedder, steps)

    report = predict_images((str(images / "a_wide.png"),), tiny_bundle, RunOptions(), damaged)
    assert "'patch' is not finite" in report.quarantined[0].reason


def test_an_interrupted_run_resumes_to_the_same_bytes(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinodeploy.tasks.predict.SHARD_BATCHES", 1)
    folder = write_digits(tmp_path / "many", each=5, kinds=3)
    (folder / "digit_1" / "broken.png").write_bytes(b"x")
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def run(out: Path, stop_after: int | None = None, **changes: Any) -> PredictReport:
        left = iter(range(stop_after or 1000))

        def stop(row: dict[str, Any]) -> None:
            if next(left, None) is None:
                raise RuntimeError("stop")

        options = RunOptions(out, "coco", batch=2, **changes)
        return predict_images((str(folder),), tiny_bundle, options, of_patches("instance"), each=stop)

    run(whole)
    with pytest.raises(RuntimeError, match="stop"):
        run(cut, stop_after=6)
    assert not (cut / "predictions.jsonl").exists()
    with pytest.raises(OutputExistsError, match=r"other settings \(predict\.save: null, now"):
        run(cut, save=("maps",))
    report = run(cut)
    assert 6 <= report.kept < 16
    assert report.counts.adds_up
    assert contents(whole) == contents(cut)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """SIGKILL at a later change of the file system each time: each process starts from what is left."""
    folder = write_digits(tmp_path / "images", each=3, kinds=2)
    program = ["-m", "tests.support.processes.kill_predictions", folder, tiny_bundle, tmp_path / "runs", "12"]
    ran = subprocess.run([sys.executable, *map(str, program)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 4
    assert contents(tmp_path / "runs" / "whole") == contents(tmp_path / "runs" / "cut")


def test_an_image_that_changed_meanwhile_is_predicted_again(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinodeploy.tasks.predict.SHARD_BATCHES", 1)
    folder = write_digits(tmp_path / "many", each=2, kinds=2)
    options = RunOptions(tmp_path / "out", batch=1)

    def stop(row: dict[str, Any]) -> None:
        if row["id"].endswith("3.png") or len(done) == 3:
            raise RuntimeError("stop")
        done.append(row["id"])

    done: list[str] = []
    with pytest.raises(RuntimeError, match="stop"):
        predict_images((str(folder),), tiny_bundle, options, of_patches("segment"), each=stop)
    Image.new("RGB", (50, 40), "red").save(done[0])
    report = predict_images((str(folder),), tiny_bundle, options, of_patches("segment"))
    assert next(report.rows)["width"] == 50
    assert report.kept == 3, "the last one was on disk when its row was shown"


def test_what_was_there_stays_until_the_new_is_complete(
    tiny_bundle: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict_images((str(images),), tiny_bundle, RunOptions(out), of_patches("segment"))
    before = contents(out)

    def stop(row: dict[str, Any]) -> None:
        raise RuntimeError("stop")

    again = RunOptions(out, overwrite=True)
    with pytest.raises(RuntimeError, match="stop"):
        predict_images((str(images),), tiny_bundle, again, of_patches("depth"), each=stop)
    assert {name: data for name, data in contents(out).items() if not name.startswith(".")} == before
    report = predict_images((str(images),), tiny_bundle, again, of_patches("depth"))
    assert not list(out.glob("*_classes.png"))
    assert len(list(out.glob("*_depth.png"))) == report.predicted


def test_an_unfinished_store_of_embeddings_is_left_alone(
    tiny_bundle: Path, images: Path, tmp_path: Path
) -> None:
    plan = Plan("0", 1, 1, ("cls",), "npy", "float32", 1, {})
    work = tmp_path / "out" / ".embed"
    work.mkdir(parents=True)
    (work / "plan.json").write_bytes(write_plan(plan))
    with pytest.raises(OutputExistsError, match="holds embeddings that are being made"):
        predict_images(
            (str(images),), tiny_bundle, RunOptions(tmp_path / "out", overwrite=True), of_patches("depth")
        )
    assert (work / "plan.json").is_file()


def test_a_video_becomes_a_video_with_a_row_per_frame(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In shards of two frames, beside an image; frames keep their times."""
    av = pytest.importorskip("av")
    monkeypatch.setattr("dinodeploy.tasks.predict.SHARD_BATCHES", 1)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for level in range(0, 250, 50):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    inputs = (str(tmp_path / "a.png"), str(tmp_path / "clip.mp4"))
    report = predict_images(inputs, tiny_bundle, RunOptions(tmp_path / "out", batch=2), of_patches("segment"))
    rows = list(report.rows)
    assert [row["id"].rpartition("#")[2] for row in rows[1:]] == [f"t=0.{tenth}00" for tenth in range(5)]
    assert {row["overlay"] for row in rows[1:]} == {"000002_clip_overlay.mp4"}
    assert "mask" in rows[0]
    assert "mask" not in rows[1], "of frames only when asked for"
    with av.open(str(tmp_path / "out" / rows[1]["overlay"])) as container:
        assert [round(10 * frame.time) for frame in container.decode(video=0)] == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_a_page_lies_in_the_directory_or_elsewhere(tiny_bundle: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    for page in (tmp_path / "out" / "index.html", tmp_path / "pages" / "of predictions.html"):
        options = RunOptions(tmp_path / "out", save=("none",), html=page, overwrite=True)
        predict_images((str(images),), tiny_bundle, options, of_patches("instance"))
        text = page.read_text("utf-8")
        assert "3 images." in text
        assert "a_wide.png" in text
        assert not list((tmp_path / "out").glob("*_overlay.jpg"))


def test_a_format_that_the_task_does_not_have(tiny_bundle: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MisuseError, match="--format coco is for detect, instance, panoptic; this head's task"
    ):
        predict_images((str(images),), tiny_bundle, RunOptions(tmp_path / "out", "coco"), of_patches("depth"))
    assert not (tmp_path / "out").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
