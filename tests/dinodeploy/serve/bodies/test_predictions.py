"""POST /predict over HTTP: classes, maps, boxes and depth of what a head gives; limits and refusals."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.serve.bodies import predictions
from dinodeploy.serve.messages import PredictResponse
from dinodeploy.tasks.predict import PREDICT_ONE
from dinodeploy.tasks.prediction import Prediction, Region
from tests.support.decode_rle import decode_mask
from tests.support.head_facts import head_facts
from tests.support.images.image_files import encoded
from tests.support.processes.live_service import Live, live

SIZE = (120, 90)


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Live]:
    with live(tiny_bundle, max_images=3, max_answer=200_000) as client:
        yield client


def found_by(task: str) -> Any:
    """A stand-in for a head: what it finds depends on the size alone."""

    def predict_one(outputs: Any, head: Any, size: tuple[int, int], steps: Any, options: Any) -> Prediction:
        assert outputs["patch"].shape == (16, 16, 128)
        ids = np.zeros(size[::-1], np.int64)
        ids[: size[1] // 2] = 1
        if task == "classify":
            classes = [{"class": "cat", "probability": 0.75}, {"class": "cup", "probability": 0.25}]
            return Prediction(task, {"classes": classes[: options.top]})
        if task == "segment":
            return Prediction(task, {"shares": {"cat": 0.5, "cup": 0.5}}, ids)
        if task == "depth":
            return Prediction(task, {"metres": {"median": 1.0}}, ids.astype(np.float32))
        box = (0.0, 0.0, float(size[0]), size[1] / 2)
        return Prediction(task, {}, ids if task == "panoptic" else None, (Region(1, "cup", 0.9, box, id=1),))

    return predict_one


@pytest.fixture
def predict(service: Live, monkeypatch: pytest.MonkeyPatch) -> Any:
    def ask(kind: str, *files: bytes, **query: Any) -> Any:
        head = head_facts(kind, outputs=("patch",), classes=("cat", "cup"), settings={"task": kind})
        monkeypatch.setattr(predictions, "head_of", lambda service: head)
        monkeypatch.setitem(PREDICT_ONE, kind, found_by(kind))
        parts = [("files", ("a.jpg", file)) for file in files or (encoded("chelsea", SIZE),)]
        return service.post("/predict", files=parts, params=query)

    return ask


def png(answer: dict[str, Any]) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(answer["map"]["png"]))) as image:
        return np.asarray(image)


def test_classes_of_several_images(predict: Any) -> None:
    answer = predict("classify", encoded("chelsea", SIZE), encoded("rocket", (50, 70)), top=1).json()
    PredictResponse.model_validate(answer)
    assert answer["task"] == "classify"
    assert [(one["width"], one["height"]) for one in answer["images"]] == [SIZE, (50, 70)]
    assert all(one["classes"] == [{"class": "cat", "probability": 0.75}] for one in answer["images"])


def test_class_maps_as_png_and_as_run_lengths(predict: Any) -> None:
    image = predict("segment").json()["images"][0]
    wanted = np.arange(90)[:, None] < 45
    assert (png(image) == wanted).all()
    answer = predict("segment", masks="rle").json()
    PredictResponse.model_validate(answer)
    (image,) = answer["images"]
    assert "map" not in image
    found = {region["class"]: decode_mask(region["mask"]) for region in image["regions"]}
    assert (found["cup"] == wanted).all()
    assert (found["cat"] == ~wanted).all()
    assert "map" not in predict("segment", masks="none").json()["images"][0]


def test_boxes_and_segments(predict: Any) -> None:
    (image,) = predict("detect").json()["images"]
    assert image["regions"] == [{"class": "cup", "label": 1, "score": 0.9, "box": [0, 0, 120, 45]}]
    (image,) = predict("panoptic").json()["images"]
    assert (png(image)[..., 0] == (np.arange(90)[:, None] < 45)).all()
    assert (image["regions"][0]["area"], image["regions"][0]["id"]) == (45 * 120, 1)
    (image,) = predict("panoptic", masks="rle").json()["images"]
    assert decode_mask(image["regions"][0]["mask"]).sum() == 45 * 120


def test_depth_is_in_millimetres(predict: Any) -> None:
    assert set(np.unique(png(predict("depth").json()["images"][0]))) == {0, 1000}


def test_maps_of_large_images_are_smaller_and_boxes_are_not(
    predict: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "MOST_PIXELS", 2700)
    (image,) = predict("panoptic").json()["images"]
    assert (image["width"], image["map"]["width"], image["map"]["height"]) == (120, 60, 45)
    assert image["regions"][0]["box"] == [0, 0, 120, 45]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"threshold": 0.5}, 422, "--threshold: a head of the task classify finds no objects"),
        ({"task": "instance"}, 422, "--task instance: this head does one task, classify"),
        ({"threshold": 2}, 422, "threshold"),
        ({"top": 0}, 422, "top"),
        ({"masks": "bmp"}, 422, "masks"),
        ({"imgsz": "100"}, 422, "imgsz"),
    ],
)
def test_options_that_do_not_fit(predict: Any, query: dict[str, Any], status: int, words: str) -> None:
    answer = predict("classify", **query)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_an_error_of_a_task_names_the_image(predict: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> Prediction:
        raise MisuseError("needs the whole image")

    def set_last(task: str) -> Any:
        return refuses

    monkeypatch.setitem(globals(), "found_by", set_last)
    answer = predict("depth")
    assert (answer.status_code, answer.json()["error"]) == (422, "a.jpg: needs the whole image")


def test_too_large_an_answer_is_refused(predict: Any, monkeypatch: pytest.MonkeyPatch, service: Live) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 600))

    def noisy(task: str) -> Any:
        return lambda *_: Prediction("segment", {"shares": {"cat": 1.0}}, noise)

    monkeypatch.setitem(globals(), "found_by", noisy)
    answer = predict("segment")
    assert (answer.status_code, "the answer would have" in answer.json()["error"]) == (413, True)


def test_without_a_head(service: Live) -> None:
    answer = service.post("/predict", files={"files": ("a.jpg", encoded("chelsea", SIZE))})
    assert (answer.status_code, "has no head" in answer.json()["error"]) == (404, True)
    assert service.get("/model").json()["head"] is None
