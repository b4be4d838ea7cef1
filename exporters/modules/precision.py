"""Measure the layers of a whole model: ranges for 16 bits, calibration for 8 bits.

Backbone layers follow the recipe, as in a backbone's own export. The others stay fp32, or get 16 bits with
the head precision fp16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dinodeploy.bundle.manifest import GraphFacts
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase
from dinov3_ref.models import Backbone
from exporters.bundle.options import ExportOptions
from exporters.modules.whole import Log, backbones_of
from exporters.precision.apply_recipe import RecipeInputs
from exporters.precision.calibrate import LinearRange, watch_linears
from exporters.precision.quantization.calibrate import Calibrated, calibrate_8_bits
from exporters.precision.quantization.scheme import fold_scheme
from exporters.precision.quantization.write import OPSET
from exporters.precision.recipes import RECIPES, TYPES
from exporters.trace.fold import Weights

PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Measured:
    """The ranges of layers by module path, and the 8-bit scheme, if there is one."""

    ranges: Mapping[str, LinearRange]
    calibrated: Calibrated | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.calibrated.notes if self.calibrated is not None else ()

    def inputs(self, options: ExportOptions, backbones: Sequence[str]) -> RecipeInputs:
        """What the recipe needs besides the graph."""
        scheme = self.calibrated.scheme if self.calibrated is not None else None
        head_type = TYPES[options.head_precision]
        return RecipeInputs(self.ranges, scheme, options.overrides, backbones, head_type)

    def facts(self, graph: GraphFacts) -> GraphFacts:
        """The manifest's facts, with those of the calibration."""
        if self.calibrated is None:
            return graph
        made = self.calibrated
        return replace(graph, opset=OPSET, given_back=made.fallback_layers, calibration_pictures=made.images)


def measure_layers(
    module: nn.Module,
    weights: Weights,
    preprocess: Preprocess,
    cases: Sequence[GoldenCase],
    options: ExportOptions,
    log: Log,
) -> Measured:
    """Run `module`, with backbones of ours, on the golden photographs and the calibration images.

    Folds the smoothing of an 8-bit recipe into `weights`. Raises MisuseError as `calibrate_8_bits`.
    """
    recipe, backbones = RECIPES[options.recipe], backbones_of(module)
    if not recipe.roles and options.head_precision == "fp32":
        return Measured({})
    log("measuring the ranges of the layers")
    with _watch(module, backbones) as ranges, torch.inference_mode():
        for case in cases:
            module(torch.from_numpy(case.pixels))
        found = ranges()
    if not recipe.quantized:
        return Measured(found)
    calibrated = calibrate_8_bits(
        module, weights, preprocess, options.calibration, recipe, options.overrides, log, backbones
    )
    fold_scheme(weights, calibrated.scheme)
    return Measured(found, calibrated)


@contextmanager
def _watch(module: nn.Module, backbones: Mapping[str, Backbone]) -> Iterator[Any]:
    """While open, forwards update ranges by module path; gives a function that returns them."""
    with ExitStack() as hooks:
        inside = {
            f"{path}." if path else "": hooks.enter_context(watch_linears(backbone))
            for path, backbone in backbones.items()
        }
        outside = hooks.enter_context(_watch_others(module, tuple(inside)))
        yield (
            lambda: (
                outside
                | {
                    f"{prefix}{name}": seen
                    for prefix, ranges in inside.items()
                    for name, seen in ranges.items()
                }
            )
        )


@contextmanager
def _watch_others(module: nn.Module, inside: tuple[str, ...]) -> Iterator[dict[str, LinearRange]]:
    """Ranges of the products outside backbones; `inside` are prefixes of paths in them."""
    ranges: dict[str, LinearRange] = {}

    def hook(path: str) -> Any:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before = ranges.get(path, LinearRange(0.0, 0.0))
            ranges[path] = LinearRange(
                max(before.largest_input, float(inputs[0].abs().max())),
                max(before.largest_output, float(output.abs().max())),
            )

        return record

    with ExitStack() as hooks:
        for path, layer in module.named_modules():
            if isinstance(layer, PRODUCTS) and not path.startswith(inside):
                hooks.enter_context(layer.register_forward_hook(hook(path)))
        yield ranges
