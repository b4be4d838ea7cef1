"""Calibrate a model and plan its 8-bit layers: pictures in, plan out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.models import Backbone
from exporters.precision.quantization.groups import find_groups
from exporters.precision.quantization.observe import observe
from exporters.precision.quantization.pictures import Calibration, calibration_pixels, in_batches
from exporters.precision.quantization.plan import QuantPlan, make_plan
from exporters.precision.quantization.sensitivity import PICTURES, give_back
from exporters.precision.recipes import Override, Recipe, overridden
from exporters.trace.fold import Weights


@dataclass(frozen=True)
class Calibrated:
    """A plan, how it came about, and notes for the user."""

    plan: QuantPlan
    pictures: int
    given_back: tuple[str, ...]
    notes: tuple[str, ...]


def plan_8_bits(
    model: Backbone,
    weights: Weights,
    preprocess: Preprocess,
    calibration: Calibration,
    recipe: Recipe,
    overrides: Sequence[Override],
    say: Callable[[str], None],
) -> Calibrated:
    """Choose ranges and smoothing on calibration pictures, and give back 16 bits where that buys most."""
    form = recipe.quantized
    assert form is not None
    pixels, notes = calibration_pixels(calibration, preprocess)
    groups = [group for group in find_groups(model) if not overridden(group.linears, overrides)]
    done = 0

    def seen(count: int) -> None:
        nonlocal done
        done += count
        say(f"calibrating: {done} of {len(pixels)} pictures")

    observations = observe(model, groups, in_batches(pixels), len(pixels), seed=calibration.seed, seen=seen)
    say("choosing smoothing and ranges")
    plan = make_plan(weights, groups, observations, form)
    step = max(1, len(pixels) // PICTURES)
    search = give_back(model, weights, plan, list(in_batches(pixels[::step][:PICTURES])), say)
    if search.given_back:
        notes = (
            *notes,
            f"{len(search.given_back)} of {len(groups)} groups of layers went back to 16 bits: error "
            f"{search.before:.3f} before, {search.after:.3f} after ({', '.join(search.given_back)})",
        )
    return Calibrated(search.plan, len(pixels), search.given_back, notes)
