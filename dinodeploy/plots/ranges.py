"""The plot of `dinodeploy ranges`: four panels over the blocks, and a verdict for each precision.

Panels: magnitudes against fp16's limit, which tokens carry them, how uneven the channels are, and LayerScale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinodeploy.pages.palette import light
from dinodeploy.plots.canvas import TIP, Axes, Box, Canvas, Plot, add_bar, decades, log_axis, log_place

WIDTH, LEFT, RIGHT = 960.0, 84.0, 772.0
HEAD = 66.0  # pixels: above all panels
TOKEN_ROW, VERDICT_ROW = 17.0, 21.0  # pixels
VERDICTS = 834.0  # pixels above the first verdict

INT8 = "plain int8"  # the prediction that spreads decide

Facts = Mapping[str, Any]
# label, colour, whether dashed, a value per block: None, or one that a logarithm cannot show, is a gap
Line = tuple[str, str, bool, list[float | None]]

MAGNITUDES = {  # value of a block or of its residual stream -> label, colour, whether dashed
    "largest": ("residual stream", "accent", False),
    "p999": ("residual, 99.9th percentile", "sky", True),
    "linear_out": ("linear layers' outputs", "purple", False),
    "logits": ("q·k before scaling", "orange", False),
    "scaled_logits": ("q·k scaled", "orange", True),
    "hidden": ("FFN hidden", "pass", False),
}
SPREADS = {  # value inside a block -> colour
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


def draw_ranges(facts: Facts) -> Plot:
    """`facts`: what `dinodeploy ranges --json` prints."""
    arch, images, predictions = facts["arch"], facts["ranges"]["images"], facts["predictions"]
    blocks: Sequence[Facts] = facts["ranges"]["blocks"]
    limit = float(facts["fp16_largest"])
    title = f"Ranges inside {'a custom model' if arch == 'custom' else arch}"
    sizes = ", ".join(f"{height}x{width}" for height, width in facts["ranges"]["sizes"])
    over = f"{images} image{'s' if images != 1 else ''} at {sizes}"
    int8 = next((p["limit"] for p in predictions if p["recipe"] == INT8), None)
    values = [{**block, **block["residual"]} for block in blocks]
    magnitudes: list[Line] = [(*line, [block[name] for block in values]) for name, line in MAGNITUDES.items()]
    spreads: list[Line] = [
        (name, colour, False, [(block["spreads"].get(name) or {}).get("ratio") for block in blocks])
        for name, colour in SPREADS.items()
        if any(name in block["spreads"] for block in blocks)
    ]

    def draw(canvas: Canvas) -> None:
        words = f"fp16 limit: {limit:,.0f}"
        _lines(canvas, (LEFT, 100, RIGHT, 400), "Largest magnitudes", magnitudes, limit, words)
        _tokens(canvas, blocks, 446, limit)
        heading = "Largest over median channel, where linear layers read"
        _lines(canvas, (LEFT, 544, RIGHT, 634), heading, spreads, int8, "per-tensor int8 starves")
        _layer_scale(canvas, blocks, (LEFT, 680, RIGHT, 770))
        canvas.text(RIGHT + 10, 784, "block", "soft", 11)
        for row, prediction in enumerate(predictions):
            y = VERDICTS + row * VERDICT_ROW
            colour = "pass" if prediction["safe"] else "fail"
            canvas.text(LEFT, y, "●", colour, 13, tip=prediction["about"])
            canvas.text(LEFT + 20, y, prediction["recipe"], size=13, bold=True)
            canvas.text(LEFT + 160, y, prediction["verdict"], size=13)

    subtitle = f"{Path(facts['source']).name} · {over} · fp32 reference"
    return Plot(title, WIDTH, VERDICTS + VERDICT_ROW * len(predictions) + 10, draw, subtitle, HEAD, LEFT)


def _panel(canvas: Canvas, box: Box, heading: str, blocks: int, **settings: Any) -> Axes:
    """Axes with a column per block, under a heading."""
    canvas.text(box[0], box[1] - 9, heading, size=12.5, bold=True)
    return canvas.axes(box, xlim=(-0.5, blocks - 0.5), **settings)


def _lines(
    canvas: Canvas, box: Box, heading: str, lines: Sequence[Line], limit: float | None, limit_label: str
) -> None:
    """Lines on a logarithmic axis, each named at its right end; red past `limit`."""
    axes = _panel(canvas, box, heading, max((len(values) for *_, values in lines), default=1))
    low, high = decades([*(value for *_, values in lines for value in values), limit])
    log_axis(axes, "y", low, high)
    _, top, _, bottom = box
    ends = []
    if limit is not None:
        axes.axhspan(limit, 10.0**high, color=light("fail"), alpha=0.07, linewidth=0)
        axes.axhline(limit, color=light("fail"), linewidth=1.2, dashes=(4, 4))
        ends.append((log_place(limit, low, high, bottom, top), limit_label, "fail"))
    for label, colour, dashed, values in lines:
        shown = {index: value for index, value in enumerate(values) if value is not None and value > 0}
        style: dict[str, Any] = {"color": light(colour), "clip_on": False, "solid_joinstyle": "round"}
        heights = [shown.get(index, math.nan) for index in range(len(values))]
        axes.plot(heights, linewidth=2, **style, **({"dashes": (2, 2)} if dashed else {}))
        for index, value in shown.items():
            tip = f"{TIP}block {index}, {label}: {value:,.4g}"
            axes.plot(index, value, "o", markersize=5.2, markeredgewidth=0, gid=tip, **style)
        if shown:
            ends.append((log_place(shown[max(shown)], low, high, bottom, top), label, colour))
    canvas.labels(box, ends)


def _tokens(canvas: Canvas, blocks: Sequence[Facts], top: float, limit: float) -> None:
    """One row per kind of token: stronger for a larger residual, red past fp16's limit."""
    residuals = [block["residual"] for block in blocks]
    kinds = list(residuals[0]["largest_by_kind"])
    box = (LEFT, top, RIGHT, top + TOKEN_ROW * len(kinds))
    heading = "Residual by kind of token, stronger for larger"
    axes = _panel(canvas, box, heading, len(blocks), ylim=(len(kinds) - 0.5, -0.5))
    axes.set_yticks(range(len(kinds)), kinds)
    gap = 2 * len(blocks) / (RIGHT - LEFT)
    values = [value for residual in residuals for value in residual["largest_by_kind"].values() if value]
    least = min(values, default=1.0)
    low, high = math.log10(least), math.log10(max([*values, 10.0 * least]))
    for row, kind in enumerate(kinds):
        for index, residual in enumerate(residuals):
            value, tokens = residual["largest_by_kind"][kind], residual["tokens"][kind]
            if not tokens:
                continue
            share = 1.0 if value is None else log_place(value, low, high, 0, 1)
            tip = f"block {index}, {kind}: {'not finite' if value is None else f'{value:,.4g}'}, "
            tip += f"{residual['tokens_beyond'][kind]} of {tokens} tokens past {limit:,.0f}"
            colour = light("fail" if value is None or value > limit else "accent")
            left, height = index - 0.5 + gap / 2, 1 - 2 / TOKEN_ROW
            add_bar(axes, row, 1 - gap, height, left, colour, tip, alpha=0.1 + 0.9 * share)
    beyond, count = (sum(residuals[-1][key].values()) for key in ("tokens_beyond", "tokens"))
    words = (f"{beyond:,} of {count:,} tokens", "past fp16's limit", "after the last block")
    for row, line in enumerate(words):
        colour = "fail" if beyond and row < 2 else "soft"
        canvas.text(RIGHT + 10, top + 12 + row * TOKEN_ROW, line, colour)


def _layer_scale(canvas: Canvas, blocks: Sequence[Facts], box: Box) -> None:
    """For each branch a bar from the smallest to the largest gain, with a mark at the median."""
    scales = [block["layer_scale"] for block in blocks]
    gains = [gain for scale in scales for gain in scale.values()]
    heading = "LayerScale, smallest to largest gain, median marked" if gains else "LayerScale: none"
    axes = _panel(canvas, box, heading, len(blocks))
    log_axis(axes, "y", *decades(gain[end] for gain in gains for end in ("smallest", "largest")))
    step = (RIGHT - LEFT) / len(blocks)  # pixels
    every = math.ceil(24 / step)
    axes.set_xticks(range(0, len(blocks), every), range(0, len(blocks), every))
    width = min(7.0, step / 3) / step
    is_convnext = any(name in scale for scale in scales for name, *_ in CONVNEXT_GAINS)
    for row, (name, colour, branch) in enumerate(CONVNEXT_GAINS if is_convnext else GAINS):
        canvas.text(RIGHT + 10, box[1] + 12 + TOKEN_ROW * row, f"{name}, {branch}", colour)
        for index, gain in ((index, scale[name]) for index, scale in enumerate(scales) if name in scale):
            smallest, median, largest = (gain[end] for end in ("smallest", "median", "largest"))
            x = index + (row - 0.5) * (width + 1 / step)
            (bar,) = axes.bar(x, largest - smallest, width, smallest, color=light(colour), alpha=0.4)
            bar.set_gid(f"{TIP}block {index}, {name}: {smallest:.3g} to {largest:.3g}, median {median:.3g}")
            axes.hlines(median, x - width / 2, x + width / 2, color=light(colour), linewidth=2)
