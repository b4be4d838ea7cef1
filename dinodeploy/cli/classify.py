"""`dinodeploy classify`: probabilities of the user's labels, by a dino.txt model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.options import MaxPixels, RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, log, parse_size
from dinodeploy.cli.predictions import print_report, print_row
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.pipeline.runner import BATCH_SIZE
from dinodeploy.text.zero_shot import classify as classify_images


def classify(
    images: Annotated[
        list[str],
        Argument(help="Files, folders, globs, lists, tables, archives, videos, URLs.", metavar="IMAGES..."),
    ],
    engine: Annotated[Path, Option(help="The bundle of a dino.txt model, or an engine file inside one.")],
    labels: Annotated[Path, Option(help="Text file of labels, one per line.")],
    templates: Annotated[
        str,
        Option(help="Texts around a label: imagenet (the 80 published), none, or a file with {} per line."),
    ] = "imagenet",
    out: Annotated[Path | None, Option(help="Directory to write, or to resume: predictions.jsonl.")] = None,
    top: Annotated[int, Option(help="Number of labels to print per image.")] = 5,
    column: Annotated[
        str | None, Option(help="Table column with images or paths. Default: found by name.")
    ] = None,
    id_column: Annotated[
        str | None, Option(help="Table column with ids. Default: paths or row numbers.")
    ] = None,
    every: Annotated[int, Option(help="Take every n-th frame of a video.")] = 1,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    imgsz: Annotated[str | None, Option(help="Input size H or H,W. Default: the bundle's.")] = None,
    batch: Annotated[int, Option(help="Images per batch, at most.")] = BATCH_SIZE,
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
