"""The plot of a benchmark: every runner at every shape, bars to scale within a group."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from dinodeploy.pages.palette import light
from dinodeploy.plots import draw_bench, inline_svg
from dinodeploy.plots.bench import LEFT, RIGHT
from dinodeploy.plots.canvas import to_svg

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
SVG = "{http://www.w3.org/2000/svg}"
RATES = {"engine": 40.0, "torch": 10.0}


def record() -> dict[str, Any]:
    rows = [
        {
            "runner": name, "batch": batch, "height": 32, "width": 48, "median_ms": 1e3 * batch / rate,
            "p95_ms": 2e3 * batch / rate, "ratio": rate / 40, "images_per_second": rate,
        }
        for batch in (1, 8)
        for name, rate in RATES.items()
    ]  # fmt: skip
    runners = {name: {"runtime": f"{name} 1.2", "relative_frobenius_cls": 3e-7} for name in RATES}
    return {
        "arch": "vit_small", "recipe": "fp32", "cpu": "a CPU", "threads": 2, "date": "2026-01-02",
        "rows": rows, "runners": runners,
    }  # fmt: skip


def test_it_names_every_runner_at_every_shape() -> None:
    svg = to_svg(draw_bench(record()))
    words = re.findall(r"<text[^>]*>([^<]*)", svg)
    assert words.count("engine") == words.count("torch") == 2
    assert {"batch 1, 32x48", "batch 8, 32x48", "a CPU, 2 threads, 2026-01-02"} <= set(words)
    assert words.count("10.0   0.25x   error 3e-07") == 2
    assert "engine 1.2: 25.0 ms, p95 50.0 ms" in svg


def test_bars_are_to_scale() -> None:
    root = ElementTree.fromstring(inline_svg(draw_bench(record())))
    lengths = []
    for path in root.iter(f"{SVG}path"):
        if f"fill: {light('accent')}" in path.attrib.get("style", "") or "opacity: 0.55" in path.attrib.get(
            "style", ""
        ):
            xs = [float(x) for x in re.findall(r"[ML] ([\d.]+)", path.attrib["d"])]
            lengths.append(max(xs) - min(xs))
    assert lengths == pytest.approx([RIGHT - LEFT, (RIGHT - LEFT) / 4] * 2)
