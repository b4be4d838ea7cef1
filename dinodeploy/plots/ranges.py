"""The plot of `dinodeploy ranges`: four panels over the blocks, and a verdict for each precision.

Panels: magnitudes against fp16's limit, which tokens carry them, how uneven the channels are, and LayerScale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dinodeploy.pages.palette import light
from dinodeploy.plots.canvas import TIP, Axes, Box, Canvas, Plot, decades, log_axis, log_place

WIDTH, LEFT, RIGHT = 960.0, 84.0, 772.0
TOKEN_ROW, VERDICT_ROW = 17.0, 21.0  # pixels
VERDICTS = 834.0  # pixels above the first verdict

INT8 = "plain int8"  # the prediction that spreads decide

# value inside a block -> colour
SPREADS = {
    "norm1 output": "accent",
    "attn attended": "orange",
    "norm2 output": "purple",
    "mlp hidden": "pass",
    "norm output": "accent",  # of a ConvNeXt's block
    "hidden": "pass",
}
# LayerScale, colour, branch
GAINS = (("ls1", "accent", "attention"), ("ls2", "pass", "feed-forward"))
CONVNEXT_GAINS = (("gamma", "pass", "block"),)

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """One line over the blocks. A value of None, or one that a logarithm cannot show, is a gap."""

    label: str
    colour: str
    values: Sequence[float | None]
    dashed: bool = False


def draw_ranges(facts: Facts) -> Plot:
    """`facts`: what `dinodeploy ranges --json` prints."""
    arch = facts["arch"]
    title = f"Ranges inside {'a custom model' if arch == 'custom' else arch}"
    height = VERDICTS + VERDICT_ROW * len(facts["predictions"]) + 10
    return Plot(title, WIDTH, height, partial(_draw, facts, title))


def _draw(facts: Facts, title: str, canvas: Canvas) -> None:
    blocks: Sequence[Facts] = facts["ranges"]["blocks"]
    limit = float(facts["fp16_largest"])
    canvas.text(LEFT, 36, title, size=20, bold=True)
    canvas.text(LEFT, 57, _subtitle(facts), "soft", 12.5)
    words = f"fp16 limit: {limit:,.0f}"
    _lines(canvas, (LEFT, 100, RIGHT, 400), "Largest magnitudes", _magnitudes(blocks), limit, words)
    _tokens(canvas, blocks, 446, limit)
    int8 = next((p["limit"] for p in facts["predictions"] if p["recipe"] == INT8), None)
    heading = "Largest over median channel, where linear layers read"
    _lines(canvas, (LEFT, 544, RIGHT, 634), heading, _spreads(blocks), int8, "per-tensor int8 starves")
    _layer_scale(canvas, blocks, (LEFT, 680, RIGHT, 770))
    canvas.text(RIGHT + 10, 784, "block", "soft", 11)
    for row, prediction in enumerate(facts["predictions"]):
        y = VERDICTS + row * VERDICT_ROW
        colour = "pass" if prediction["safe"] else "fail"
        canvas.text(LEFT, y, "●", colour, 13, tip=prediction["about"])
        canvas.text(LEFT + 20, y, prediction["recipe"], size=13, bold=True)
        canvas.text(LEFT + 160, y, prediction["verdict"], size=13)


def _subtitle(facts: Facts) -> str:
    sizes = ", ".join(f"{height}x{width}" for height, width in facts["ranges"]["sizes"])
    images = facts["ranges"]["images"]
    over = f"{images} image{'s' if images != 1 else ''} at {sizes}"
    return f"{Path(facts['source']).name} · {over} · fp32 reference"


def _magnitudes(blocks: Sequence[Facts]) -> tuple[Series, ...]:
    residuals = [block["residual"] for block in blocks]
    return (
        Series("residual stream", "accent", [residual["largest"] for residual in residuals]),
        Series("residual, 99.9th percentile", "sky", [residual["p999"] for residual in residuals], True),
        Series("linear layers' outputs", "purple", [block["linear_out"] for block in blocks]),
        Series("q·k before scaling", "orange", [block["logits"] for block in blocks]),
        Series("q·k scaled", "orange", [block["scaled_logits"] for block in blocks], True),
        Series("FFN hidden", "pass", [block["hidden"] for block in blocks]),
    )


def _spreads(blocks: Sequence[Facts]) -> tuple[Series, ...]:
    return tuple(
        Series(name, colour, [(block["spreads"].get(name) or {}).get("ratio") for block in blocks])
        for name, colour in SPREADS.items()
        if any(name in block["spreads"] for block in blocks)
    )


def _panel(canvas: Canvas, box: Box, heading: str, blocks: int) -> Axes:
    """Axes with a column per block, under a heading."""
    canvas.text(box[0], box[1] - 9, heading, size=12.5, bold=True)
    axes = canvas.axes(box)
    axes.set_xlim(-0.5, blocks - 0.5)
    return axes


def _lines(
    canvas: Canvas, box: Box, heading: str, series: Sequence[Series], limit: float | None, limit_label: str
) -> None:
    """Lines on a logarithmic axis, each named at its right end; red past `limit`."""
    count = max((len(one.values) for one in series), default=1)
    axes = _panel(canvas, box, heading, count)
    low, high = decades([*(value for one in series for value in one.values), limit])
    log_axis(axes, "y", low, high)
    _, top, _, bottom = box
    ends = []
    if limit is not None:
        axes.axhspan(limit, 10.0**high, color=light("fail"), alpha=0.07, linewidth=0)
        axes.axhline(limit, color=light("fail"), linewidth=1.2, dashes=(4, 4))
        ends.append((log_place(limit, low, high, bottom, top), limit_label, "fail"))
    for one in series:
        values = [value if value is not None and value > 0 else math.nan for value in one.values]
        style: dict[str, Any] = {"color": light(one.colour), "clip_on": False, "solid_joinstyle": "round"}
        axes.plot(values, linewidth=2, **style, **({"dashes": (2, 2)} if one.dashed else {}))
        shown = [(index, value) for index, value in enumerate(values) if not math.isnan(value)]
        for index, value in shown:
            tip = f"{TIP}block {index}, {one.label}: {value:,.4g}"
            axes.plot(index, value, "o", markersize=5.2, markeredgewidth=0, gid=tip, **style)
        if shown:
            ends.append((log_place(shown[-1][1], low, high, bottom, top), one.label, one.colour))
    canvas.labels(box, ends)


def _tokens(canvas: Canvas, blocks: Sequence[Facts], top: float, limit: float) -> None:
    """One row per kind of token: stronger for a larger residual, red past fp16's limit."""
    kinds = list(blocks[0]["residual"]["largest_by_kind"])
    box = (LEFT, top, RIGHT, top + TOKEN_ROW * len(kinds))
    axes = _panel(canvas, box, "Residual by kind of token, stronger for larger", len(blocks))
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_yticks(range(len(kinds)), kinds)
    gap = 2 * len(blocks) / (RIGHT - LEFT)
    for index, row, past, strength, tip in _cells(blocks, kinds, limit):
        colour = light("fail" if past else "accent")
        (bar,) = axes.barh(
            row, 1 - gap, 1 - 2 / TOKEN_ROW, index - 0.5 + gap / 2, color=colour, alpha=strength
        )
        bar.set_gid(TIP + tip)
    last = blocks[-1]["residual"]
    beyond, tokens = sum(last["tokens_beyond"].values()), sum(last["tokens"].values())
    words = (f"{beyond:,} of {tokens:,} tokens", "past fp16's limit", "after the last block")
    for row, line in enumerate(words):
        colour = "fail" if beyond and row < 2 else "soft"
        canvas.text(RIGHT + 10, top + 12 + row * TOKEN_ROW, line, colour)


def _cells(
    blocks: Sequence[Facts], kinds: Sequence[str], limit: float
) -> Iterator[tuple[int, int, bool, float, str]]:
    """Block, row, whether past `limit`, opacity, and words of every cell that has tokens."""
    values = [v for block in blocks for v in block["residual"]["largest_by_kind"].values() if v]
    low = math.log10(min(values, default=1.0))
    high = math.log10(max([*values, 10.0 * min(values, default=1.0)]))
    for row, kind in enumerate(kinds):
        for index, block in enumerate(blocks):
            residual = block["residual"]
            value, beyond = residual["largest_by_kind"][kind], residual["tokens_beyond"][kind]
            if not residual["tokens"][kind]:
                continue
            share = 1.0 if value is None else (math.log10(value) - low) / (high - low) if value else 0.0
            tip = f"block {index}, {kind}: {'not finite' if value is None else f'{value:,.4g}'}"
            tip += f", {beyond} of {residual['tokens'][kind]} tokens past {limit:,.0f}"
            yield index, row, value is None or value > limit, 0.1 + 0.9 * share, tip


def _layer_scale(canvas: Canvas, blocks: Sequence[Facts], box: Box) -> None:
    """For each branch a bar from the smallest to the largest gain, with a mark at the median."""
    gains = [gain for block in blocks for gain in block["layer_scale"].values()]
    heading = "LayerScale, smallest to largest gain, median marked" if gains else "LayerScale: none"
    axes = _panel(canvas, box, heading, len(blocks))
    log_axis(axes, "y", *decades(gain[end] for gain in gains for end in ("smallest", "largest")))
    step = (RIGHT - LEFT) / len(blocks)  # pixels
    every = math.ceil(24 / step)
    axes.set_xticks(range(0, len(blocks), every), range(0, len(blocks), every))
    width = min(7.0, step / 3) / step
    is_convnext = any(name in block["layer_scale"] for block in blocks for name, *_ in CONVNEXT_GAINS)
    for row, (name, colour, branch) in enumerate(CONVNEXT_GAINS if is_convnext else GAINS):
        canvas.text(RIGHT + 10, box[1] + 12 + TOKEN_ROW * row, f"{name}, {branch}", colour)
        for index, gain in _present(blocks, name):
            smallest, median, largest = (gain[end] for end in ("smallest", "median", "largest"))
            x = index + (row - 0.5) * (width + 1 / step)
            (bar,) = axes.bar(x, largest - smallest, width, smallest, color=light(colour), alpha=0.4)
            bar.set_gid(f"{TIP}block {index}, {name}: {smallest:.3g} to {largest:.3g}, median {median:.3g}")
            axes.hlines(median, x - width / 2, x + width / 2, color=light(colour), linewidth=2)


def _present(blocks: Iterable[Facts], name: str) -> Iterator[tuple[int, Facts]]:
    for index, block in enumerate(blocks):
        if name in block["layer_scale"]:
            yield index, block["layer_scale"][name]
