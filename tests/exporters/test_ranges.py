"""Images to ranges; and the exporter agrees with what is predicted of its recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dinodeploy import JudgementError, MisuseError
from dinov3_ref.checkpoints import build_model
from dinov3_ref.ranges import PRECISIONS, measure_ranges, predict
from exporters.bundle.export import ExportOptions, export_checkpoint
from exporters.precision import recipes
from exporters.precision.calibrate import watch_linears
from exporters.precision.recipes import RECIPES
from exporters.ranges import checkpoint_ranges, spread_over
from tests.support.images.photographs import photograph, pixels
from tests.support.overflowing_models import OVERFLOWS, gentle, massive_product


def files(folder: Path, *names: str) -> list[str]:
    for name in names:
        photograph(name).save(folder / f"{name}.jpg")
    return [str(folder / f"{name}.jpg") for name in names]


# ---- the exporter's recipes --------------------------------------------------------------------


def test_the_table_knows_the_exporters_numbers() -> None:
    assert {recipes.FP16: (PRECISIONS["fp16"].largest, PRECISIONS["fp16"].headroom)} == recipes.LIMITS
    assert set(RECIPES) <= set(PRECISIONS), "a recipe that nobody predicts"


@pytest.mark.parametrize("case", ["gentle", "massive product", "massive gain", "massive norm"])
def test_the_exporter_scales_the_layers_that_were_named(case: str) -> None:
    """fp16's `scaled` against what the exporter's own watch of the same pixels makes of each layer."""
    checkpoint = OVERFLOWS[case][0]("mlp")
    x = pixels(("coffee", "china"), 80, 112)
    model = build_model(checkpoint)
    with watch_linears(model) as seen, torch.no_grad():
        model(x)
    scaled = {path for path, linear in seen.items() if any(recipes.shifts(linear, recipes.FP16))}
    fp16 = {p.recipe: p for p in predict(measure_ranges(model, [x]))}["fp16"]
    # q, k and v are one layer here and three there
    assert {path.replace("attn.qkv", "attn.q") for path in fp16.scaled} == {
        path for path in scaled if not path.endswith((".k", ".v"))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "safe"), [("massive product", True), ("massive values", False), ("sharp attention", False)]
)
def test_an_fp16_bundle_passes_or_fails_as_predicted(case: str, safe: bool, tmp_path: Path) -> None:
    checkpoint = OVERFLOWS[case][0]("mlp")
    report = checkpoint_ranges(checkpoint, files(tmp_path, "astronaut", "coffee"), imgsz=(96, 128))
    assert {prediction.recipe: prediction.safe for prediction in report.predictions}["fp16"] == safe
    options = ExportOptions(recipe="fp16")
    if safe:
        bundle, _ = export_checkpoint(checkpoint, tmp_path / "bundle", options, weights="random")
        assert bundle.receipt.passed
        return
    with pytest.raises(JudgementError, match="NaN or infinite"):
        export_checkpoint(checkpoint, tmp_path / "bundle", options, weights="random")


# ---- images ----------------------------------------------------------------------------------


def test_images_go_through_the_official_preset(tmp_path: Path) -> None:
    ids = files(tmp_path, "chelsea", "china")
    report = checkpoint_ranges(gentle(), ids, imgsz=(64, 96))
    assert report.ranges.images == 2
    assert report.ranges.sizes == ((64, 96),)
    assert (report.preprocess.preset, report.preprocess.patch_size) == ("official", 16)
    assert checkpoint_ranges(gentle(), ids[:1]).ranges.sizes == ((256, 256),)
    assert report.unreadable == ()
    assert "random weights" in report.notes[0]
    assert "ImageNet's" in report.notes[-1]


def test_more_images_than_a_batch(tmp_path: Path) -> None:
    ids = files(tmp_path, "chelsea", "china", "coffee", "rocket", "astronaut", "flower")
    said: list[str] = []
    report = checkpoint_ranges(gentle(), ids, imgsz=(48, 48), log=said.append)
    assert report.ranges.images == 6
    assert report.ranges.blocks[0].residual.tokens == {"cls": 6, "storage": 24, "patch": 54}
    assert said == ["measuring images 1 to 4 of 6", "measuring images 5 to 6 of 6"]


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    ids = files(tmp_path, "chelsea")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    report = checkpoint_ranges(massive_product(), [str(broken), *ids, str(broken)], imgsz=(48, 48))
    assert report.ranges.images == 1
    assert [id_ for id_, _ in report.unreadable] == [str(broken)] * 2
    assert report.ranges == checkpoint_ranges(massive_product(), ids, imgsz=(48, 48)).ranges
    facts = report.as_dict()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    with pytest.raises(MisuseError, match=r"none of 1 images can be read; the first: .*broken\.jpg"):
        checkpoint_ranges(gentle(), [str(broken)], imgsz=(48, 48))


def test_a_listing_is_thinned_evenly() -> None:
    ids = [str(number) for number in range(10)]
    assert spread_over(ids, 16) == spread_over(ids, 10) == ids
    assert spread_over(ids, 4) == ["0", "2", "5", "7"]
    assert spread_over(ids, 1) == ["0"]
