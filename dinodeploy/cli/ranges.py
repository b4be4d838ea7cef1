"""`dinodeploy ranges`: how large a checkpoint's values get, and which precisions can hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dinodeploy.chart import check_picture_path, draw_ranges, write_picture
from dinodeploy.cli.output import parse_size, print_json, stderr, stdout
from dinodeploy.errors import MisuseError
from dinodeploy.hardware.packages import reach
from dinodeploy.images.paths import list_images
from dinodeploy.pipeline.progress import step_progress

PARTIAL = 5

# What does not fit eighty characters is in the JSON.
HEADS = ("block", "residual", "99.9 %", "past fp16", "q·k", "linear", "hidden", "gain", "spread")
COLUMNS = ("logits", "linear_out", "hidden")
LEGEND = """\
Largest magnitudes. 99.9 %: percentile of the residual. q·k: before scaling.
linear: any linear layer's output. hidden: the FFN's. gain: LayerScale's.
spread: largest over median channel, at the worst input of a linear layer.
past fp16: channels, then tokens (cls, storage, patch), of the residual."""


def ranges(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file or directory, in any layout.")],
    images: Annotated[
        list[str], typer.Option(help="A folder, file or glob of pictures; may be given several times.")
    ],
    imgsz: Annotated[str | None, typer.Option(help="Input size H or H,W. Default: 256.")] = None,
    arch: Annotated[str | None, typer.Option(help="Hold the file against this architecture.")] = None,
    limit: Annotated[int, typer.Option(help="Pictures to use, evenly spaced over all.")] = 16,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it as well: a file that ends in .svg, .png or .html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON on stdout.")] = False,
) -> None:
    """Run the fp32 reference on pictures: how large values get, block by block, and what would overflow."""
    if limit < 1:
        raise MisuseError(f"--limit is {limit}; wanted at least 1")
    if picture is not None:
        check_picture_path(picture)
    measurer = reach("exporters.ranges", "ranges")
    checkpoints = reach("dinov3_ref.checkpoints", "ranges")
    size = parse_size(imgsz)
    ids = measurer.spread_over(list_images(images), limit)
    with step_progress() as say:
        say(f"loading {checkpoint}")
        loaded = checkpoints.load_checkpoint(checkpoint, arch=arch)
        facts = measurer.checkpoint_ranges(loaded, ids, imgsz=size, log=say).as_dict()
    if picture is not None:
        write_picture(draw_ranges(facts), picture)
    _report(facts, picture, as_json, reach("dinov3_ref.ranges", "ranges").short)


def _report(
    facts: Mapping[str, Any], picture: Path | None, as_json: bool, short: Callable[[float], str]
) -> None:
    if as_json:
        print_json(facts)
    else:
        stdout().print(_table(facts, short))
        print(f"\n{LEGEND}\n")
        for prediction in facts["predictions"]:
            print(f"{prediction['recipe']:<16}{prediction['verdict']}")
        if picture is not None:
            print(f"drawn: {picture}")
    for note in facts["notes"]:
        stderr().print(f"note: {note}", markup=False)
    unreadable = facts["unreadable"]
    for item in unreadable:
        stderr().print(f"skipped: {item['reason']}", markup=False)
    if unreadable:
        read = facts["ranges"]["images"]
        stderr().print(f"{len(unreadable)} of {read + len(unreadable)} pictures could not be read")
        raise typer.Exit(PARTIAL)


def _table(facts: Mapping[str, Any], short: Callable[[float], str]) -> Table:
    """One row a block; what fp16 cannot hold is red."""
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
    """Channels, and tokens by kind, that went past fp16's end: `2: c16 s64 p803`."""
    if not residual["channels_beyond"]:
        return ""
    kinds = " ".join(f"{kind[0]}{count}" for kind, count in residual["tokens_beyond"].items() if count)
    return f"{residual['channels_beyond']}: {kinds}"
