"""`dinodeploy ranges`: how large the values of a checkpoint get, and which precisions can hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer import Argument, Option

from dinodeploy.cli.output import PARTIAL, log, note_skipped, parse_size, print_json, print_notes, say, stdout
from dinodeploy.errors import MisuseError
from dinodeploy.hardware.packages import reach
from dinodeploy.pipeline.progress import step_progress
from dinodeploy.plots import check_plot_path, draw_ranges, write_plot
from dinodeploy.sources.folders import list_images

# Eighty characters wide; the JSON has everything.
HEADS = ("block", "residual", "99.9 %", "past fp16", "q·k", "linear", "hidden", "gain", "spread")
COLUMNS = ("logits", "linear_out", "hidden")
LEGEND = """\
Largest magnitudes. 99.9 %: percentile of the residual. q·k: before scaling.
linear: any linear layer's output. hidden: the FFN's. gain: LayerScale's.
spread: largest over median channel, at the worst input of a linear layer.
past fp16: channels, then tokens (cls, storage, patch), of the residual."""


def ranges(
    checkpoint: Annotated[Path, Argument(help="A checkpoint file or directory, in any layout.")],
    images: Annotated[
        list[str], Option(help="A folder, file or glob of images; can be given several times.")
    ],
    imgsz: Annotated[str | None, Option(help="Input size H or H,W. Default: 256.")] = None,
    arch: Annotated[str | None, Option(help="Check the file against this architecture.")] = None,
    weights_key: Annotated[
        str | None, Option(help="Which model of the file, by dotted name. Default: EMA if it has one.")
    ] = None,
    limit: Annotated[int, Option(help="Number of images to use, evenly spaced over all.")] = 16,
    plot: Annotated[
        Path | None, Option("--plot", "--picture", help="Also draw a plot: a .svg, .png or .html file.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Everything as JSON on stdout.")] = False,
) -> None:
    """Measure how large values get in each block of the fp32 reference, and what would overflow."""
    if limit < 1:
        raise MisuseError(f"--limit is {limit}; wanted at least 1")
    if plot is not None:
        check_plot_path(plot)
    measurer = reach("exporters.ranges", "ranges")
    checkpoints = reach("dinov3_ref.checkpoints", "ranges")
    size = parse_size(imgsz)
    ids = measurer.spread_over(list_images(images, note_skipped), limit)
    with step_progress() as step:
        step(f"loading {checkpoint}")
        loaded = checkpoints.load_checkpoint(checkpoint, arch=arch, weights_key=weights_key)
        facts = measurer.checkpoint_ranges(loaded, ids, imgsz=size, log=step).as_dict()
    if plot is not None:
        write_plot(draw_ranges(facts), plot)
    _report(facts, plot, as_json, reach("dinov3_ref.ranges", "ranges").short)


def _report(
    facts: Mapping[str, Any], plot: Path | None, as_json: bool, short: Callable[[float], str]
) -> None:
    if as_json:
        print_json(facts)
    else:
        stdout().print(_table(facts, short))
        say(f"\n{LEGEND}\n")
        for prediction in facts["predictions"]:
            say(f"{prediction['recipe']:<16}{prediction['verdict']}")
        if plot is not None:
            say(f"plot: {plot}")
    print_notes(facts["notes"])
    unreadable = facts["unreadable"]
    print_notes((item["reason"] for item in unreadable), "skipped")
    if unreadable:
        read = facts["ranges"]["images"]
        log(f"{len(unreadable)} of {read + len(unreadable)} images could not be read")
        raise typer.Exit(PARTIAL)


def _table(facts: Mapping[str, Any], short: Callable[[float], str]) -> Table:
    """One row per block; what fp16 cannot hold is red."""
    limit = facts["fp16_largest"]

    def cell(value: float | None, end: float = limit) -> str:
        if value is None:
            return "[bold red]inf[/]"
        return f"[bold red]{short(value)}[/]" if value > end else short(value)

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for block in facts["ranges"]["blocks"]:
        residual = block["residual"]
        gains = [gain["largest"] for gain in block["layer_scale"].values()]
        spreads = [spread["ratio"] for spread in block["spreads"].values()]
        table.add_row(
            block["name"].partition(".")[2],  # 5, or 2.5: of stage 2
            cell(residual["largest"]),
            cell(residual["p999"]),
            _carriers(residual),
            *(cell(block[name]) if block[name] is not None else "" for name in COLUMNS),
            short(max(gains)) if gains else "",
            cell(None if None in spreads else max(spreads), math.inf) if spreads else "",
        )
    return table


def _carriers(residual: Mapping[str, Any]) -> str:
    """Channels, and tokens by kind, past fp16's limit: `2: c16 s64 p803`."""
    if not residual["channels_beyond"]:
        return ""
    kinds = " ".join(f"{kind[0]}{count}" for kind, count in residual["tokens_beyond"].items() if count)
    return f"{residual['channels_beyond']}: {kinds}"
