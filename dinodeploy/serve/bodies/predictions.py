"""The answer of /predict: what the head of the served bundle finds in each image.

Maps are PNG files in base64: class ids in grey (255: no class), ids of objects as R + 256 G + 65536 B,
millimetres in 16 bits. They have the image's own pixels; those of an image above MOST_PIXELS are smaller.
Boxes are always in pixels of the image.

Shapes: h w pixels of a map.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from dinodeploy.bundle.manifest import HeadFacts
from dinodeploy.errors import MisuseError
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Answer, Question, Service, check_answer_size
from dinodeploy.tasks.dense import depth_image, segment_image
from dinodeploy.tasks.predict import PREDICT_ONE, Predictor, predictor_of
from dinodeploy.tasks.prediction import Prediction, PredictOptions
from dinodeploy.tasks.results.draw import Legend
from dinodeploy.tasks.results.rle import encode_mask
from dinodeploy.tasks.results.rows import row_of
from dinodeploy.visualize.heat import SCALE

Masks = Literal["png", "rle", "none"]
MOST_PIXELS = 4_000_000  # of a map: masks of a hundred objects at 50 megapixels would take gigabytes


def head_of(service: Service) -> HeadFacts | None:
    """The head of the served bundle, if it predicts something."""
    head = service.embedder.manifest.head
    return head if head is not None and head.task in PREDICT_ONE else None


def page_data() -> dict[str, Any]:
    """What the page draws predictions with: colours of classes, and the scale of depths."""
    return {"colours": Legend().hexadecimal, "scale": SCALE}


async def predict(
    service: Service,
    questions: Sequence[Question],
    options: PredictOptions,
    imgsz: tuple[int, int] | None,
    masks: Masks,
) -> bytes:
    """`messages.PredictResponse` as JSON. Raises Refused, 404 without a head."""
    head = head_of(service)
    if head is None:
        raise Refused(404, "this service's bundle has no head; serve one with a classifier, a detector …")
    try:
        steps = service.embedder.preprocess_for(imgsz)
    except MisuseError as error:
        raise Refused(422, f"imgsz: {error}") from error
    try:
        predictor = predictor_of(head, steps, options)
    except MisuseError as error:
        raise Refused(422, str(error)) from error
    if predictor.windows is not None:
        raise Refused(
            422, "task semantic: this model reads windows of an image, which the service does not cut; "
            "use task=panoptic, or `dinodeploy predict`"
        )  # fmt: skip
    answers = await service.embed(questions, list(predictor.outputs), imgsz, bytes_per_number=0)
    loop = asyncio.get_running_loop()
    rows = []
    for answer in answers:  # one after the other: a large image takes long, and its masks much memory
        work = loop.run_in_executor(service.encoders, _row, predictor, answer, masks)
        try:
            rows.append(await service.in_time(work))
        except MisuseError as error:
            raise Refused(422, f"{answer.name}: {error}") from error
    body = json.dumps({"task": predictor.task, "images": rows}, separators=(",", ":")).encode()
    check_answer_size(len(body), service.settings.max_answer)
    return body


def _row(predictor: Predictor, answer: Answer, masks: Masks) -> dict[str, Any]:
    """The facts of one image, and its map where it has one."""
    shrink = min(1.0, math.sqrt(MOST_PIXELS / (answer.width * answer.height)))
    size = (max(1, round(answer.width * shrink)), max(1, round(answer.height * shrink)))
    found = predictor.predict_one(answer.outputs, size)
    row = row_of("", (answer.width, answer.height), found)
    del row["id"]
    for region in row.get("regions", ()):
        if masks != "rle":
            region.pop("mask", None)
        if "box" in region:
            scale = (answer.width / size[0], answer.height / size[1])
            region["box"] = [round(side * scale[at % 2], 4) for at, side in enumerate(region["box"])]
    if masks == "rle" and found.task == "segment":
        row["regions"] = _class_masks(predictor, found)
    if masks == "png" and found.map is not None:
        row["map"] = _map(found)
    return {"name": answer.name, **row}


def _class_masks(predictor: Predictor, found: Prediction) -> list[dict[str, Any]]:
    """One mask for each class of a semantic segmentation."""
    assert found.map is not None
    names = {name: index for index, name in enumerate(predictor.classes)}
    made = []
    for name, share in found.facts["shares"].items():
        label = names.get(name, int(name) if name.isdecimal() else 0)
        mask = encode_mask(found.map == label)
        made.append({"class": name, "label": label, "score": share, "mask": mask})
    return made


def _map(found: Prediction) -> dict[str, Any]:
    assert found.map is not None
    if found.task == "segment":
        image = Image.fromarray(found.map.astype(np.uint8))
    else:
        image = depth_image(found.map) if found.task == "depth" else segment_image(found.map)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"width": image.width, "height": image.height, "png": data}
