"""`dinodeploy predict`: predictions of a bundle's head for images."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from dinodeploy.cli.options import MaxPixels, RequireSignature
from dinodeploy.cli.output import (
    DEVICE_HELP,
    PARTIAL,
    note,
    note_skipped,
    parse_size,
    print_json,
    print_notes,
    say,
)
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError, printable
from dinodeploy.images.limits import ImageLimits
from dinodeploy.pipeline.probe import choose_hint
from dinodeploy.pipeline.progress import image_progress
from dinodeploy.pipeline.runner import BATCH_SIZE
from dinodeploy.sources.counts import Counts
from dinodeploy.sources.folders import find_images, total_of
from dinodeploy.tasks.predict import Unread, head_of
from dinodeploy.tasks.predict import predict as predict_images
from dinodeploy.tasks.prediction import PredictOptions
from dinodeploy.tasks.write_predictions import TABLE, PredictionWriter, check_target


def predict(
    images: Annotated[list[str], Argument(help="Files, folders and globs.", metavar="IMAGES...")],
    engine: Annotated[Path, Option(help="A bundle with a head, or an engine file inside one.")],
    out: Annotated[
        Path | None,
        Option(help="Output directory: predictions.jsonl, and masks or depth maps as images."),
    ] = None,
    top: Annotated[int, Option(help="Number of classes to print per image.")] = 5,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    imgsz: Annotated[str | None, Option(help="Input size H or H,W. Default: the bundle's.")] = None,
    batch: Annotated[int, Option(help="Images per batch, at most.")] = BATCH_SIZE,
    threads: Annotated[
        int | None, Option(help="CPU threads of the engine. Default: chosen by the runtime.")
    ] = None,
    max_pixels: MaxPixels = None,
    require_signature: RequireSignature = None,
    allow_unverified: Annotated[
        bool, Option("--allow-unverified", help="Use an engine without a passing receipt.")
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace existing predictions.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Predict classes, class maps or depth. Exit code 5 if some images cannot be read."""
    for option, value in (("--top", top), ("--batch", batch), ("--threads", threads)):
        if value is not None and value < 1:
            raise MisuseError(f"{option} is {value}; wanted at least 1")
    limits = ImageLimits.of(max_pixels)
    found = find_images(images)
    ids = found.ids
    if out is not None:
        check_target(out, overwrite)
    hint = choose_hint(len(ids), threads)
    with Embedder.open(
        engine,
        device=device,
        require_signature=require_signature,
        allow_unverified=allow_unverified,
        threads=threads,
        hint=hint,
    ) as embedder:
        head = head_of(embedder)
        note(device, embedder.choice)
        note_skipped(found.skipped)
        steps = embedder.preprocess_for(parse_size(imgsz))
        stream = predict_images(
            embedder, ids, steps, PredictOptions(top=top), batch_size=batch, limits=limits
        )
        rows: list[dict[str, Any]] = []
        unread: list[Unread] = []
        show = (lambda row: None) if as_json else (lambda row: say(_line(row)))
        with PredictionWriter(out, limits) as writer, image_progress(len(ids)) as advance:
            lost = (Unread(folder.id, folder.message) for folder in found.lost)
            for item in chain(lost, stream):
                if isinstance(item, Unread):
                    unread.append(item)
                    writer.refuse(item)
                else:
                    rows.append(writer.add(item))
                    show(rows[-1])
                advance(len(rows), len(unread))
    counts = Counts(found.seen, len(rows), 0, len(unread), total_of(found.skipped))
    _report(head.task, out, rows, unread, counts, as_json)
    print_notes((item.reason for item in unread), "quarantined")
    if unread:
        raise typer.Exit(PARTIAL)


def _report(
    task: str,
    out: Path | None,
    rows: list[dict[str, Any]],
    unread: list[Unread],
    counts: Counts,
    as_json: bool,
) -> None:
    if as_json:
        reasons = [{"id": item.id, "reason": item.reason} for item in unread]
        facts = {"task": task, "out": str(out) if out else None, "predictions": rows, "quarantined": reasons}
        print_json({**facts, "counts": counts.as_json()})
        return
    if out is not None:
        say(f"{out}: {len(rows)} predictions in {TABLE}" + ("" if task == "classify" else " and images"))
    say(counts.line("predicted"))


def _line(row: dict[str, Any]) -> str:
    """One prediction as a line of text."""
    if "classes" in row:
        found = "  ".join(f"{entry['class']} {entry['probability']:.3f}" for entry in row["classes"])
    elif "shares" in row:
        found = "  ".join(f"{name} {share:.1%}" for name, share in list(row["shares"].items())[:5])
    else:
        found = "  ".join(f"{word} {value:.2f} m" for word, value in row["metres"].items())
    return f"{printable(row['id'])}  {found}"
