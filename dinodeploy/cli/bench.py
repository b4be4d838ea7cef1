"""`dinodeploy bench`: compare the speed of an engine with its peers on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dinodeploy.bench import BenchOptions, as_table, run_bench, summary
from dinodeploy.bench.ledger import check_record_path, write_record
from dinodeploy.bench.runners import PEERS
from dinodeploy.bench.table import LEGEND
from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, parse_list, parse_size, print_json, say, stdout
from dinodeploy.errors import MisuseError
from dinodeploy.pipeline.progress import step_progress
from dinodeploy.plots import check_plot_path, draw_bench, write_plot


def bench(
    engine: Annotated[Path, Argument(help="A bundle, an engine file inside one, or hf://ORG/NAME.")],
    vs: Annotated[
        str | None,
        Option(help="Peers: torch, compile, transformers, timm, onnxruntime, openvino, nncf."),
    ] = None,
    batch: Annotated[str, Option(help="Batch sizes: 1,8.")] = "1,8",
    imgsz: Annotated[
        str | None, Option(help="Input sizes H or HxW: 224,512x320. Default: the bundle's.")
    ] = None,
    rounds: Annotated[int, Option(help="Timed runs of each, in turns.")] = 10,
    threads: Annotated[int | None, Option(help="Threads per runner. Default: one per core.")] = None,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    outputs: Annotated[
        str | None, Option(help="Outputs that the engine computes, for instance cls. Default: all.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Option(help="The checkpoint of the bundle, for peers that need weights from a file."),
    ] = None,
    out: Annotated[Path | None, Option(help="Write the results to this JSON file.")] = None,
    plot: Annotated[
        Path | None, Option("--plot", "--picture", help="Also draw a plot: a .svg, .png or .html file.")
    ] = None,
    require_signature: RequireSignature = None,
    as_json: Annotated[bool, Option("--json", help="The results as JSON on stdout.")] = False,
) -> None:
    """Time an engine and its peers on the same weights and images, in turns, with the error of each."""
    if out is not None:
        check_record_path(out)
    if plot is not None:
        check_plot_path(plot)
    options = BenchOptions(
        vs=parse_list(vs, "--vs", PEERS) if vs else (),
        shapes=tuple((count, *size) for size in _sizes(imgsz) for count in _batches(batch)),
        batches=_batches(batch),
        rounds=rounds,
        threads=threads,
        device=device,
        outputs=parse_list(outputs, "--outputs") if outputs else None,
        checkpoint=None if checkpoint is None else str(checkpoint),
        require_signature=None if require_signature is None else str(require_signature),
    )
    with step_progress() as log:
        record = run_bench(str(engine), options, log)
    if out is not None:
        write_record(record, out)
    if plot is not None:
        write_plot(draw_bench(record), plot)
    _report(record, out, plot, as_json)


def _batches(text: str) -> tuple[int, ...]:
    """`1,8` -> (1, 8). Raises MisuseError."""
    names = parse_list(text, "--batch")
    for name in names:
        if not name.isdecimal():
            raise MisuseError(f"--batch: {name!r} is not a number; wanted for instance 1,8")
    return tuple(int(name) for name in names)


def _sizes(text: str | None) -> tuple[tuple[int, int], ...]:
    """`224,512x320` -> ((224, 224), (512, 320)), each H, W; empty for None. Raises MisuseError."""
    sizes = (parse_size(name) for name in (parse_list(text, "--imgsz") if text is not None else ()))
    return tuple(size for size in sizes if size is not None)


def _report(record: dict[str, Any], out: Path | None, plot: Path | None, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    stdout().print(as_table(record))
    say(f"\n{summary(record)}\n{LEGEND}")
    for path in (out, plot):
        if path is not None:
            say(f"written: {path}")
