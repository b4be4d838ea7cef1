"""`dinodeploy bench`: an engine beside its peers, on this machine, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dinodeploy.bench import BenchOptions, as_table, run_bench, summary
from dinodeploy.bench.ledger import check_record_path, write_record
from dinodeploy.bench.runners import PEERS
from dinodeploy.bench.table import LEGEND
from dinodeploy.chart import check_picture_path, draw_bench, write_picture
from dinodeploy.cli.output import DEVICE_HELP, parse_list, parse_size, print_json, stdout
from dinodeploy.errors import MisuseError
from dinodeploy.pipeline.progress import step_progress


def bench(
    engine: Annotated[Path, typer.Argument(help="A bundle, or an engine file inside one.")],
    vs: Annotated[
        str | None,
        typer.Option(help="Peers: torch, compile, transformers, timm, onnxruntime, openvino, nncf."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes: 1,8.")] = "1,8",
    imgsz: Annotated[str, typer.Option(help="Input sizes H or HxW: 224,512x320.")] = "224",
    rounds: Annotated[int, typer.Option(help="Runs of each, in turns.")] = 10,
    threads: Annotated[int | None, typer.Option(help="Threads of everybody. Default: one a core.")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    outputs: Annotated[
        str | None, typer.Option(help="What the engine is opened for: cls leaves out the rest.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The bundle's own weights, for peers that need them, where they are a file."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the record as JSON.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it as well: a file that ends in .svg, .png or .html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The record as JSON on stdout.")] = False,
) -> None:
    """Time an engine beside its peers: same weights and photographs, in turns, an error beside each speed."""
    if out is not None:
        check_record_path(out)
    if picture is not None:
        check_picture_path(picture)
    options = BenchOptions(
        vs=parse_list(vs, "--vs", PEERS) if vs else (),
        shapes=tuple((count, *size) for size in _sizes(imgsz) for count in _batches(batch)),
        rounds=rounds,
        threads=threads,
        device=device,
        outputs=parse_list(outputs, "--outputs") if outputs else None,
        checkpoint=None if checkpoint is None else str(checkpoint),
    )
    with step_progress() as say:
        record = run_bench(str(engine), options, say)
    if out is not None:
        write_record(record, out)
    if picture is not None:
        write_picture(draw_bench(record), picture)
    _report(record, out, picture, as_json)


def _batches(text: str) -> tuple[int, ...]:
    """`1,8` -> (1, 8). Raises MisuseError."""
    names = parse_list(text, "--batch")
    for name in names:
        if not name.isdecimal():
            raise MisuseError(f"--batch: {name!r} is no number; wanted for instance 1,8")
    return tuple(int(name) for name in names)


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`224,512x320` -> ((224, 224), (512, 320)), each H, W. Raises MisuseError."""
    sizes = (parse_size(name) for name in parse_list(text, "--imgsz"))
    return tuple(size for size in sizes if size is not None)


def _report(record: dict[str, Any], out: Path | None, picture: Path | None, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    stdout().print(as_table(record))
    print(f"\n{summary(record)}\n{LEGEND}")
    for path in (out, picture):
        if path is not None:
            print(f"written: {path}")
