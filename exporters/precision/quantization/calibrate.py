"""Calibrate a model for an 8-bit recipe: calibration images in, quantization scheme out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from torch import nn

from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.models import Backbone
from exporters.precision.quantization.images import Calibration, calibration_pixels, in_batches
from exporters.precision.quantization.observe import find_groups, observe
from exporters.precision.quantization.scheme import QuantScheme, make_scheme
from exporters.precision.quantization.sensitivity import IMAGES, choose_fallback_layers, features_inside
from exporters.precision.quantization.sensitivity import features as backbone_features
from exporters.precision.recipes import Override, Recipe
from exporters.trace.fold import Weights


@dataclass(frozen=True)
class Calibrated:
    """A quantization scheme, how it was chosen, and notes for the user."""

    scheme: QuantScheme
    images: int  # that it was calibrated on
    fallback_layers: tuple[str, ...]  # groups of layers that stay in 16 bits
    notes: tuple[str, ...]


def calibrate_8_bits(
    model: nn.Module,
    weights: Weights,
    preprocess: Preprocess,
    calibration: Calibration,
    recipe: Recipe,
    overrides: Sequence[Override],
    log: Callable[[str], None],
    backbones: Mapping[str, Backbone] | None = None,
) -> Calibrated:
    """Choose ranges and smoothing on calibration images, and leave the most sensitive layers in 16 bits.

    backbones: of a whole model, by module path; default: `model` is one. Raises MisuseError if no
    calibration image can be read.
    """
    form = recipe.quantized
    assert form is not None
    pixels, notes = calibration_pixels(calibration, preprocess)
    # an override that matches any layer of a group takes the group out of 8 bits
    patterns = [pattern for pattern, _ in overrides]
    inside: Mapping[str, Backbone] = {"": model} if backbones is None else backbones  # type: ignore[dict-item]
    groups = [
        group
        for path, backbone in inside.items()
        for group in find_groups(backbone, path)
        if not any(fnmatchcase(path, pattern) for path in group.linears for pattern in patterns)
    ]

    def seen(done: int) -> None:
        log(f"calibrating: {done} of {len(pixels)} images")

    observations = observe(model, groups, in_batches(pixels), len(pixels), seed=calibration.seed, seen=seen)
    log("choosing smoothing and ranges")
    groups = [group for group in groups if group.path in observations]
    scheme = make_scheme(weights, groups, observations, form)
    step = max(1, len(pixels) // IMAGES)
    few = list(in_batches(pixels[::step][:IMAGES]))
    features = backbone_features if backbones is None else partial(features_inside, backbones=backbones)
    search = choose_fallback_layers(model, weights, scheme, few, log, features)
    if search.fallback_layers:
        notes = (
            *notes,
            f"{len(search.fallback_layers)} of {len(groups)} groups of layers fall back to 16 bits: error "
            f"{search.before:.3f} before, {search.after:.3f} after ({', '.join(search.fallback_layers)})",
        )
    return Calibrated(search.scheme, len(pixels), search.fallback_layers, notes)
