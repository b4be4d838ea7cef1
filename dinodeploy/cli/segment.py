"""`dinodeploy segment`: the user's labels for every pixel, by a dino.txt model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.options import MaxPixels, RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, log, parse_list
from dinodeploy.cli.predictions import print_report, print_row
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.text.segment import SHORT_SIDE, SIDE, STRIDE
from dinodeploy.text.zero_shot import segment as segment_images


def segment(
    images: Annotated[
        list[str],
        Argument(help="Files, folders, globs, lists, tables, archives, videos, URLs.", metavar="IMAGES..."),
    ],
    engine: Annotated[Path, Option(help="The bundle of a dino.txt model, or an engine file inside one.")],
    labels: Annotated[Path, Option(help="Text file of labels, one per line, at most 255.")],
    templates: Annotated[
        str,
        Option(help="Texts around a label: imagenet (the 80 published), none, or a file with {} per line."),
    ] = "imagenet",
    out: Annotated[
        Path | None, Option(help="Directory to write, or to resume: predictions.jsonl, maps, overlays.")
    ] = None,
    min_cosine: Annotated[
        float | None,
        Option(help="Smaller cosines of the best label are background, id 255. Default: no background."),
    ] = None,
    save: Annotated[
        str | None,
        Option(help="Images to write: maps, overlays, or none. Default: both; of videos, overlays."),
    ] = None,
    html: Annotated[
        Path | None, Option(help="Also write an HTML page: overlays, classes to filter by.")
    ] = None,
    imgsz: Annotated[int, Option(help="Short side that images are resized to, in pixels.")] = SHORT_SIDE,
    window: Annotated[int, Option(help="Side of the sliding windows, in pixels.")] = SIDE,
    stride: Annotated[int, Option(help="Distance of the sliding windows, in pixels.")] = STRIDE,
    column: Annotated[
        str | None, Option(help="Table column with images or paths. Default: found by name.")
    ] = None,
    id_column: Annotated[
        str | None, Option(help="Table column with ids. Default: paths or row numbers.")
    ] = None,
    every: Annotated[int, Option(help="Take every n-th frame of a video.")] = 1,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    batch: Annotated[int, Option(help="Images per batch, at most.")] = 2,
    threads: Annotated[
        int | None, Option(help="CPU threads of the engine. Default: chosen by the runtime.")
    ] = None,
    time_limit: Annotated[
        float, Option(help="Seconds after which an image counts as unreadable.")
    ] = TIME_LIMIT,
    max_pixels: MaxPixels = None,
    require_signature: RequireSignature = None,
    allow_unverified: Annotated[
        bool, Option("--allow-unverified", help="Use an engine without a passing receipt.")
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace existing predictions.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON on stdout.")] = False,
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
