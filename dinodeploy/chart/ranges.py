"""The picture of `dinodeploy ranges`, from the same facts as its JSON.

Four panels over the blocks: magnitudes against fp16's end, which tokens carry them, LayerScale, and how
uneven the channels are; below them a verdict for each precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dinodeploy.chart.panel import Axis, Columns, Panel, Series, headline
from dinodeploy.chart.shapes import Dot, Drawing, Rect, Shape, Text

WIDTH, LEFT, RIGHT = 960.0, 84.0, 772.0
ROW = 17.0  # pixels of a row of tokens
VERDICT = 21.0  # pixels of a line of verdicts

INT8 = "plain int8"  # the prediction that spreads decide

# value inside a block -> ink
SPREADS = {
    "norm1 output": "blue",
    "attn attended": "orange",
    "norm2 output": "purple",
    "mlp hidden": "green",
    "norm output": "blue",  # of a ConvNeXt's block
    "hidden": "green",
}
# LayerScale, ink, branch
GAINS = (("ls1", "blue", "attention"), ("ls2", "green", "feed-forward"))
CONVNEXT_GAINS = (("gamma", "green", "block"),)

Facts = Mapping[str, Any]


def draw_ranges(facts: Facts) -> Drawing:
    """`facts`: what `dinodeploy ranges --json` prints."""
    blocks: Sequence[Facts] = facts["ranges"]["blocks"]
    columns = Columns(LEFT, RIGHT, len(blocks))
    limit = float(facts["fp16_largest"])
    arch = facts["arch"]
    title = f"Ranges inside {'a model of your own' if arch == 'custom' else arch}"
    shapes: list[Shape] = [
        Text(LEFT, 36, title, size=20, bold=True),
        Text(LEFT, 57, _subtitle(facts), "faint", 12.5),
    ]
    magnitudes = Panel(
        columns, 100, 400, "Largest magnitudes", _magnitudes(blocks), limit, f"fp16 ends at {limit:,.0f}"
    )
    shapes += magnitudes.shapes()
    shapes += _tokens(blocks, columns, 446, limit)
    shapes += Panel(
        columns,
        544,
        634,
        "Largest over median channel, where linear layers read",
        _spreads(blocks),
        **_int8(facts),
    ).shapes()
    shapes += _layer_scale(blocks, columns, 680, 770)
    shapes += columns.numbers(790)
    shapes.append(Text(RIGHT + 10, 790, "block", "faint", 11))
    shapes += _verdicts(facts["predictions"], 834)
    height = 834 + VERDICT * len(facts["predictions"]) + 10
    return Drawing(WIDTH, height, title, tuple(shapes))


def _subtitle(facts: Facts) -> str:
    sizes = ", ".join(f"{height}x{width}" for height, width in facts["ranges"]["sizes"])
    images = facts["ranges"]["images"]
    over = f"{images} picture{'s' if images != 1 else ''} at {sizes}"
    return f"{Path(facts['source']).name} · {over} · fp32 reference"


def _magnitudes(blocks: Sequence[Facts]) -> tuple[Series, ...]:
    residuals = [block["residual"] for block in blocks]
    return (
        Series("residual stream", "blue", [residual["largest"] for residual in residuals]),
        Series("residual, 99.9th percentile", "sky", [residual["p999"] for residual in residuals], dash=4),
        Series("linear layers' outputs", "purple", [block["linear_out"] for block in blocks]),
        Series("q·k before scaling", "orange", [block["logits"] for block in blocks]),
        Series("q·k scaled", "orange", [block["scaled_logits"] for block in blocks], dash=4),
        Series("FFN hidden", "green", [block["hidden"] for block in blocks]),
    )


def _spreads(blocks: Sequence[Facts]) -> tuple[Series, ...]:
    return tuple(
        Series(name, ink, [(block["spreads"].get(name) or {}).get("ratio") for block in blocks])
        for name, ink in SPREADS.items()
        if any(name in block["spreads"] for block in blocks)
    )


def _int8(facts: Facts) -> dict[str, Any]:
    """The limit of the spread panel: what per-tensor int8 was predicted by."""
    limits = [p["limit"] for p in facts["predictions"] if p["recipe"] == INT8]
    return {"limit": limits[0], "limit_label": "per-tensor int8 starves"} if limits else {}


def _tokens(blocks: Sequence[Facts], columns: Columns, top: float, limit: float) -> Iterator[Shape]:
    """A row for each kind of token: the stronger, the larger its residual; red past fp16's end."""
    yield headline(columns, top, "Residual by kind of token, stronger for larger")
    values = [v for block in blocks for v in block["residual"]["largest_by_kind"].values() if v]
    low = math.log10(min(values, default=1.0))
    high = math.log10(max([*values, 10.0 * min(values, default=1.0)]))
    for row, kind in enumerate(blocks[0]["residual"]["largest_by_kind"]):
        y = top + row * ROW
        yield Text(LEFT - 8, y + 12, kind, "faint", 11, "end")
        for index, block in enumerate(blocks):
            residual = block["residual"]
            value, beyond = residual["largest_by_kind"][kind], residual["tokens_beyond"][kind]
            if not residual["tokens"][kind]:
                continue
            share = 1.0 if value is None else (math.log10(value) - low) / (high - low) if value else 0.0
            past = value is None or value > limit
            title = f"block {index}, {kind}: {'not finite' if value is None else f'{value:,.4g}'}"
            title += f", {beyond} of {residual['tokens'][kind]} tokens past {limit:,.0f}"
            x = LEFT + index * columns.step
            ink = "alarm" if past else "blue"
            yield Rect(x + 1, y, columns.step - 2, ROW - 2, ink, 0.1 + 0.9 * share, title)
    last = blocks[-1]["residual"]
    beyond, tokens = sum(last["tokens_beyond"].values()), sum(last["tokens"].values())
    yield Text(RIGHT + 10, top + 12, f"{beyond:,} of {tokens:,} tokens", "alarm" if beyond else "faint", 12)
    yield Text(RIGHT + 10, top + 12 + ROW, "past fp16's end", "alarm" if beyond else "faint", 12)
    yield Text(RIGHT + 10, top + 12 + 2 * ROW, "after the last block", "faint", 12)


def _layer_scale(blocks: Sequence[Facts], columns: Columns, top: float, bottom: float) -> Iterator[Shape]:
    """A bar from the smallest to the largest gain for each branch, a tick at the median."""
    gains = [gain for block in blocks for gain in block["layer_scale"].values()]
    axis = Axis.around([gain[end] for gain in gains for end in ("smallest", "largest")], top, bottom)
    yield headline(
        columns, top, "LayerScale, smallest to largest gain, median marked" if gains else "LayerScale: none"
    )
    yield from axis.grid(columns)
    width = min(7.0, columns.step / 3)
    is_convnext = any(name in block["layer_scale"] for block in blocks for name, *_ in CONVNEXT_GAINS)
    for row, (name, ink, branch) in enumerate(CONVNEXT_GAINS if is_convnext else GAINS):
        yield Text(RIGHT + 10, top + 12 + ROW * row, f"{name}, {branch}", ink, 12)
        for index, block in enumerate(blocks):
            gain = block["layer_scale"].get(name)
            if gain is None:
                continue
            smallest, median, largest = (gain[end] for end in ("smallest", "median", "largest"))
            x, y = columns.centre(index) + (row - 1) * (width + 1) + 0.5, axis.y(largest)
            title = f"block {index}, {name}: {smallest:.3g} to {largest:.3g}, median {median:.3g}"
            yield Rect(x, y, width, max(axis.y(smallest) - y, 1.5), ink, 0.4, title)
            yield Rect(x, axis.y(median) - 1, width, 2, ink)


def _verdicts(predictions: Sequence[Facts], top: float) -> Iterator[Shape]:
    for row, prediction in enumerate(predictions):
        y = top + row * VERDICT
        yield Dot(LEFT + 5, y - 4, 5, "good" if prediction["safe"] else "alarm", prediction["about"])
        yield Text(LEFT + 20, y, prediction["recipe"], size=13, bold=True)
        yield Text(LEFT + 160, y, prediction["verdict"], size=13)
