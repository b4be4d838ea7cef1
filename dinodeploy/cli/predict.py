"""`dinodeploy predict`: classes, masks, boxes and depth of images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from dinodeploy.api import predict as predict_images
from dinodeploy.cli.options import (
    AllowUnverified,
    AsJson,
    Batch,
    Column,
    Device,
    Every,
    IdColumn,
    Images,
    InputSize,
    MaxPixels,
    OverwritePredictions,
    RequireSignature,
    Save,
    Threads,
    TimeLimit,
)
from dinodeploy.cli.output import log, parse_list, parse_size
from dinodeploy.cli.predictions import print_report, print_row
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.pipeline.runner import BATCH_SIZE


def predict(
    images: Images,
    engine: Annotated[
        Path, Option(help="A bundle with a head, an engine file inside one, or hf://ORG/NAME.")
    ],
    out: Annotated[
        Path | None,
        Option(help="Directory to write, or to resume: predictions.jsonl, masks, depth maps, overlays."),
    ] = None,
    task: Annotated[
        str | None, Option(help="semantic, instance or panoptic. Default: what the head was trained for.")
    ] = None,
    top: Annotated[int, Option(help="Number of classes to print per image.")] = 5,
    threshold: Annotated[
        float | None, Option(help="Smallest score of an object. Default: the model's own.")
    ] = None,
    output_format: Annotated[
        str, Option("--format", help="jsonl, or coco: also COCO JSON of boxes, instances or segments.")
    ] = "jsonl",
    save: Save = None,
    html: Annotated[
        Path | None, Option(help="Also write an HTML page: overlays, classes to filter by, scores.")
    ] = None,
    column: Column = None,
    id_column: IdColumn = None,
    every: Every = 1,
    device: Device = "auto",
    imgsz: InputSize = None,
    batch: Batch = BATCH_SIZE,
    threads: Threads = None,
    time_limit: TimeLimit = TIME_LIMIT,
    max_pixels: MaxPixels = None,
    require_signature: RequireSignature = None,
    allow_unverified: AllowUnverified = False,
    overwrite: OverwritePredictions = False,
    as_json: AsJson = False,
) -> None:
    """Predict classes, masks, boxes or depth. After an interruption, the same command resumes.

    Images that cannot be read are quarantined with their reason; the exit code is then 5.
    """
    report = predict_images(
        images,
        engine=engine,
        out=out,
        task=task,
        top=top,
        threshold=threshold,
        format=output_format,
        save=None if save is None else parse_list(save, "--save"),
        html=html,
        column=column,
        id_column=id_column,
        every=every,
        device=device,
        imgsz=parse_size(imgsz),
        batch=batch,
        threads=threads,
        time_limit=time_limit,
        max_pixels=max_pixels,
        require_signature=require_signature,
        allow_unverified=allow_unverified,
        overwrite=overwrite,
        progress=True,
        log=log,
        each=print_row(as_json),
    )
    print_report(report, html, as_json)
