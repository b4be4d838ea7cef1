"""A sample of every page that is written as a file, with photographs and with names that are hard to lay out.

No model runs: features are colours of patches, predictions are drawn by hand, numbers are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.pages import jpeg_uri, render_page
from dinodeploy.parity.bisect import Bisection, GroupError, Place
from dinodeploy.parity.measurement import Measurement
from dinodeploy.plots import draw_bench, draw_ranges, inline_svg
from dinodeploy.plots.canvas import to_html
from dinodeploy.plots.parity import Bar, PatchErrors, draw_bars, draw_growth, draw_meter, draw_patch_errors
from dinodeploy.search.duplicates import Duplicates, Member
from dinodeploy.search.index import Hit
from dinodeploy.search.sheets import Asked, duplicates_sheet, search_sheet
from dinodeploy.tasks.results.page import page_item, render_predictions
from dinodeploy.visualize.look import Look
from dinodeploy.visualize.maps import MapOptions, fit_painter
from dinodeploy.visualize.page import render_maps
from tests.support.images.photographs import photograph
from tests.support.pages.predictions import LEGEND, SCENES, predictions

LONG = "a_name_of_two_hundred_characters_" * 6 + ".jpg"
NAMES = (
    LONG,
    "写真の名前がとても長い" * 12 + ".jpg",
    "صورة طويلة الاسم " * 12 + ".jpg",
    "</b><i>.jpg",
    "b.jpg",
    "c.jpg",
)
PATCH = 16  # pixels


def look(name: str, id: str) -> Look:
    """A look whose features are the mean colours of patches, and their squares."""
    image = photograph(name)
    image.thumbnail((480, 480))
    h, w = image.height // PATCH, image.width // PATCH
    colours = np.asarray(image.resize((w, h)), np.float32) / 255 - 0.45
    patches = np.concatenate([colours, colours**2, np.ones((h, w, 1), np.float32) / 3], axis=-1)
    weights = np.abs(colours[..., 0]) ** 3
    return Look(id, image, patches, np.stack([weights, weights.T.reshape(h, w)]) / weights.sum())


def maps(what: str) -> str:
    """The page of `visualize`."""
    looks = [look(name, f"photos/{id}") for name, id in zip(SCENES, NAMES, strict=True)]
    painter, words = fit_painter(what, looks, MapOptions((0.4, 0.4)))
    return render_maps(what, looks, [painter(one) for one in looks], words, "vit_small, weights file")


def predicted(task: str, *, plain: bool = False) -> str:
    """The page of `predict`. plain: with the photographs' own names."""
    found = predictions(task)
    names = [f"{name}.jpg" for name, _ in found] if plain else NAMES
    items = [
        page_item(photograph(name), f"photos/{id}", one, LEGEND)
        for (name, one), id in zip(found, names, strict=False)
    ]
    return render_predictions(task, items, len(items) if plain else 240, LEGEND)


def write_photos(folder: Path) -> list[str]:
    """A photograph under each of NAMES that a file system takes; the last one is missing."""
    ids = [str(folder / name) for name in (f"{LONG[:180]}.jpg", "写真" * 12 + ".jpg", *NAMES[4:])]
    for name, id in zip(SCENES, ids[:-1], strict=False):
        photograph(name).save(id)
    return ids


def searched(folder: Path) -> str:
    """The page of `search`."""
    ids = write_photos(folder)
    note = {"note": "words " * 40, "width in mm": 12.5}
    hits = [Hit(rank, id, 0.9 - 0.1 * rank, 640, 427, note) for rank, id in enumerate(ids, 1)]
    asked = [Asked(ids[0], ids[0], hits), Asked("a red bicycle", None, hits[:2]), Asked("nothing", None, [])]
    return search_sheet("a_store_with_a_long_name_" * 5, ", width > 9", asked)


def deduplicated(folder: Path) -> str:
    """The page of `dedupe`."""
    members = [Member(id, 640, 427, 0.99, at == 1) for at, id in enumerate(write_photos(folder))]
    groups = [members, *([replace(one, id=f"{one.id}{at}")] * 2 for at, one in enumerate(members))]
    return duplicates_sheet("store", Duplicates(90, 0.97, 0, groups))


def benchmarked() -> str:
    """The page of `bench --plot`."""
    rates = {"engine": 40.0, "torch": 10.0, "timm": 11.0, "transformers": 9.0}
    rows = [
        {
            "runner": name,
            "batch": batch,
            "height": 224,
            "width": 224,
            "median_ms": 1e3 * batch / rate,
            "p95_ms": 2e3 * batch / rate,
            "ratio": rate / 40,
            "images_per_second": rate,
        }
        for batch in (1, 8)
        for name, rate in rates.items()
    ]
    runners = {name: {"runtime": f"{name} 1.2", "relative_frobenius_cls": 3e-7} for name in rates}
    facts = {"arch": "vit_small", "recipe": "fp32", "cpu": "a CPU with a long name " * 4, "threads": 2}
    return to_html(draw_bench({**facts, "date": "2026-01-02", "rows": rows, "runners": runners})).decode()


def ranged(depth: int = 12) -> str:
    """The page of `ranges --plot`: a model with massive activations from block 6 on."""
    gain = {"smallest": 0.01, "median": 0.1, "largest": 0.9}

    def block(at: int) -> dict[str, Any]:
        large = 155_000.0 if at >= 6 else 4.0 + at
        kinds = {"cls": large, "storage": large / 40, "patch": 3.0 + at}
        residual = {
            "largest": large,
            "p999": 2.0 + at,
            "largest_by_kind": kinds,
            "tokens": dict.fromkeys(kinds, 40),
        }
        residual["tokens_beyond"] = {kind: int(value > 65_504) for kind, value in kinds.items()}
        values = {"linear_out": 9.0 + at, "logits": 80.0, "scaled_logits": 9.0, "hidden": 3.0}
        spreads = {name: {"ratio": 2.0 + at * 4} for name in ("norm1 output", "attn attended", "mlp hidden")}
        return {"residual": residual, **values, "spreads": spreads, "layer_scale": {"ls1": gain, "ls2": gain}}

    verdicts = (
        ("plain fp16 cast", False, "overflows first at blocks.6"),
        ("fp16", True, "safe: 5,018x to spare"),
    )
    facts = {
        "arch": "vit_small",
        "source": f"weights/{LONG}",
        "fp16_largest": 65504.0,
        "ranges": {"images": 16, "sizes": [(224, 224)], "blocks": [block(at) for at in range(depth)]},
        "predictions": [
            {"recipe": recipe, "safe": safe, "verdict": words, "about": "what it is", "limit": None}
            for recipe, safe, words in verdicts
        ],
    }
    return to_html(draw_ranges(facts)).decode()


def reported(passed: bool) -> str:
    """The page of `check --report`."""
    metrics = ("relative_frobenius", "cosine")
    measurements = [
        Measurement(
            case,
            output,
            metric,
            0.3 if not passed and output == "patch" else 1e-6,
            1e-5,
            passed or output != "patch",
        )
        for case in ("own_size", "tall", "wide")
        for output in ("cls", "storage", "patch")
        for metric in metrics
    ]
    rows = [Bar(f"{m.case} · {m.output}", m.value, m.passed, m.sentence) for m in measurements[::2]]
    image = np.asarray(photograph("coffee").resize((96, 64)))
    errors = draw_patch_errors(PatchErrors("wide", image, np.full((4, 6), 1e-4)), 1e-5)
    places = []
    for at in range(6):
        error = GroupError(1e-6 if passed else 10.0 ** (at - 6), 1.0)
        places.append(Place(f"blocks.{at}", error.error, 1e-3, {"cls": error, "patch": error}))
    bisection = Bisection("wide", "fp32", 1e-4, tuple(places), None if passed else "blocks.3", "")
    finding = {
        "metric": "cosine",
        "value": "0.9",
        "at_least": "0.99",
        "reason": "why",
        "plot": inline_svg(draw_meter(0.9, 0.99)),
    }
    return render_page(
        "report",
        name="a_bundle_with_a_long_name_" * 6,
        passed=passed,
        arch="vit_small",
        recipe="fp32",
        measurements=measurements,
        failures=[m for m in measurements if not m.passed],
        listed=3,
        facts={"Engine": "model.cpu.onnx", "Device": "a CPU " * 12, "SHA-256": "0123456789abcdef" * 4},
        charts=[
            {
                "heading": "Relative error",
                "words": "‖got − reference‖",
                "plot": inline_svg(draw_bars(rows, 1e-5, "Relative error")),
            }
        ],
        patches={
            "case": "wide",
            "image": jpeg_uri(photograph("coffee")),
            "plot": inline_svg(errors),
            "width": 780,
        },
        bisection={
            "case": "wide",
            "departs": bisection.departs,
            "answer": "It departs.",
            "plot": inline_svg(draw_growth(bisection)),
        },
        comparison={
            "images": 10,
            "k": 5,
            "bundle": "a" * 99,
            "other": "b",
            "note": "",
            "reindex": not passed,
            "findings": [finding],
        },
        number=lambda value, missing: missing if value is None else f"{value:.7g}",
        licence="Apache-2.0",
    )


# name -> a function from an empty folder to the page
SAMPLES: dict[str, Callable[[Path], str]] = {
    **{
        f"visualize-{what}": lambda _, what=what: maps(what)
        for what in ("pca", "attention", "similarity", "foreground")
    },
    **{
        f"predict-{task}": lambda _, task=task: predicted(task)
        for task in ("segment", "panoptic", "detect", "classify", "depth")
    },
    "search": searched,
    "dedupe": deduplicated,
    "bench": lambda _: benchmarked(),
    "ranges": lambda _: ranged(),
    "report-passed": lambda _: reported(True),
    "report-failed": lambda _: reported(False),
}
