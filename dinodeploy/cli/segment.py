"""`dinodeploy segment`: the user's labels for every pixel, by a dino.txt model."""

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
    MaxPixels,
    OverwritePredictions,
    RequireSignature,
    Save,
    Templates,
    TextEngine,
    Threads,
    TimeLimit,
)
from dinodeploy.cli.output import log, parse_list
from dinodeploy.cli.predictions import print_report, print_row
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.text.segment import SHORT_SIDE, SIDE, STRIDE
from dinodeploy.text.zero_shot import segment as segment_images


def segment(
    images: Images,
    engine: TextEngine,
    labels: Annotated[Path, Option(help="Text file of labels, one per line, at most 255.")],
    templates: Templates = "imagenet",
    out: Annotated[
        Path | None, Option(help="Directory to write, or to resume: predictions.jsonl, maps, overlays.")
    ] = None,
    min_cosine: Annotated[
        float | None,
        Option(help="Smaller cosines of the best label are background, id 255. Default: no background."),
    ] = None,
    save: Save = None,
    html: Annotated[
        Path | None, Option(help="Also write an HTML page: overlays, classes to filter by.")
    ] = None,
    imgsz: Annotated[int, Option(help="Short side that images are resized to, in pixels.")] = SHORT_SIDE,
    window: Annotated[int, Option(help="Side of the sliding windows, in pixels.")] = SIDE,
    stride: Annotated[int, Option(help="Distance of the sliding windows, in pixels.")] = STRIDE,
    column: Column = None,
    id_column: IdColumn = None,
    every: Every = 1,
    device: Device = "auto",
    batch: Batch = 2,
    threads: Threads = None,
    time_limit: TimeLimit = TIME_LIMIT,
    max_pixels: MaxPixels = None,
    require_signature: RequireSignature = None,
    allow_unverified: AllowUnverified = False,
    overwrite: OverwritePredictions = False,
    as_json: AsJson = False,
) -> None:
    """Segment images into your own labels, without training. After an interruption, the same command resumes.

    Images that cannot be read are quarantined with their reason; the exit code is then 5.
    """
    report = segment_images(
        images,
        engine=engine,
        labels=labels,
        templates=templates,
        out=out,
        min_cosine=min_cosine,
        save=None if save is None else parse_list(save, "--save"),
        html=html,
        imgsz=imgsz,
        window=window,
        stride=stride,
        column=column,
        id_column=id_column,
        every=every,
        device=device,
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
