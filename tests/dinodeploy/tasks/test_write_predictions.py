"""A directory of predictions: rows, image files, and what is never replaced."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import OutputExistsError
from dinodeploy.tasks.predict import Predicted, Unread
from dinodeploy.tasks.prediction import Prediction
from dinodeploy.tasks.write_predictions import TABLE, PredictionWriter, check_target


def test_rows_and_images_are_written(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    Image.new("RGB", (4, 2), "red").save(image)
    with PredictionWriter(tmp_path / "out") as writer:
        classes = np.array([[0, 0, 1, 255], [0, 0, 1, 255]])
        segmented = writer.add(
            Predicted(str(image), Prediction("segment", {"shares": {"cat": 1.0}}, classes))
        )
        deep = writer.add(
            Predicted(
                str(image), Prediction("depth", {"metres": {"median": 2.0}}, np.full((2, 4), 2, np.float32))
            )
        )
        writer.refuse(Unread("b.jpg", "cannot be read"))
    out = tmp_path / "out"
    assert [json.loads(line) for line in (out / TABLE).read_text().splitlines()] == [segmented, deep]
    assert json.loads((out / "quarantine.jsonl").read_text()) == {"id": "b.jpg", "reason": "cannot be read"}
    with Image.open(out / segmented["mask"]) as mask, Image.open(out / segmented["overlay"]) as overlay:
        assert (np.asarray(mask) == classes).all()
        assert overlay.size == (4, 2)
    with Image.open(out / deep["depth"]) as depth:
        assert (np.asarray(depth) == 2000).all()


def test_names_that_are_long_reserved_or_not_utf_8(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"caf\xe9.jpg"), "y" * 240 + ".jpg", "aux.jpg", "a:b?.jpg"):
        Image.new("RGB", (4, 2), "red").save(tmp_path / name, "JPEG")
        with PredictionWriter(tmp_path / "out") as writer:
            row = writer.add(
                Predicted(str(tmp_path / name), Prediction("segment", {"shares": {}}, np.zeros((2, 4), int)))
            )
            writer.refuse(Unread(name, "cannot be read"))
        assert json.loads((tmp_path / "out" / TABLE).read_bytes()) == row
        assert json.loads((tmp_path / "out" / "quarantine.jsonl").read_bytes())["id"] == name
        written = {path.name for path in (tmp_path / "out").iterdir()} - {TABLE, "quarantine.jsonl"}
        assert written == {row["mask"], row["overlay"]}
        assert all(len(one.encode()) < 143 and not set(one) & set('<>:"|?*') for one in written)
        check_target(tmp_path / "out", overwrite=True)
        shutil.rmtree(tmp_path / "out")


def test_an_error_leaves_no_directory(tmp_path: Path) -> None:
    def interrupted() -> None:
        with PredictionWriter(tmp_path / "out") as writer:
            writer.add(Predicted("a.jpg", Prediction("classify")))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_without_a_directory_only_rows_are_made(tmp_path: Path) -> None:
    with PredictionWriter(None) as writer:
        assert writer.add(Predicted("a.jpg", Prediction("classify", {"classes": []}, np.zeros((1, 1))))) == {
            "id": "a.jpg",
            "classes": [],
        }
        writer.refuse(Unread("b.jpg", "cannot be read"))


def test_only_predictions_are_replaced(tmp_path: Path) -> None:
    check_target(tmp_path / "new", overwrite=False)
    check_target(tmp_path, overwrite=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"holds no predictions\.jsonl; choose another --out"):
        check_target(tmp_path, overwrite=True)
    (tmp_path / TABLE).write_text("")
    with pytest.raises(OutputExistsError, match=r"also holds 'notes\.txt', so it is not replaced"):
        check_target(tmp_path, overwrite=True)
    (tmp_path / "notes.txt").rename(tmp_path / "000001_notes_depth.png")
    check_target(tmp_path, overwrite=True)
    with pytest.raises(OutputExistsError, match="give --overwrite or another --out"):
        check_target(tmp_path, overwrite=False)
