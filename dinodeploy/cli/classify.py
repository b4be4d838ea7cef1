"""`dinodeploy classify`: probabilities of the user's labels, by a dino.txt model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

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
    Templates,
    TextEngine,
    Threads,
    TimeLimit,
)
from dinodeploy.cli.output import log, parse_size
from dinodeploy.cli.predictions import print_report, print_row
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.pipeline.runner import BATCH_SIZE
from dinodeploy.text.zero_shot import classify as classify_images


def classify(
    images: Images,
    engine: TextEngine,
    labels: Annotated[Path, Option(help="Text file of labels, one per line.")],
    templates: Templates = "imagenet",
    out: Annotated[Path | None, Option(help="Directory to write, or to resume: predictions.jsonl.")] = None,
    top: Annotated[int, Option(help="Number of labels to print per image.")] = 5,
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
    """Classify images into your own labels, without training. The same command resumes after an interruption.

    Images that cannot be read are quarantined with their reason; the exit code is then 5.
    """
    report = classify_images(
        images,
        engine=engine,
        labels=labels,
        templates=templates,
        out=out,
        top=top,
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
    print_report(report, None, as_json)
