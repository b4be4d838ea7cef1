"""Predict which precisions can hold a model's values, from its measured ranges and a table of precisions.

Floating-point types can overflow. int8 cannot; it loses resolution: the largest channel sets one step for the
whole tensor, and other channels use only part of the 127 levels.

Predictions hold for the measured images. Other images may reach larger values, so a verdict also states the
distance to the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dinov3_ref.ranges.ranges import FP16_LARGEST, ROLES, Ranges, Site, plain

BF16_LARGEST = 3.3895313892515355e38  # (2 - 2^-7) * 2^127
FP32_LARGEST = 3.4028234663852886e38  # (2 - 2^-23) * 2^127

INT8_LEVELS = 127  # of one sign
# Levels that the median channel needs under per-tensor int8 for a CLS cosine of 0.99. Measured by rounding
# the inputs of all linear layers: 0.995 at 7 levels, 0.96 at 1.8 (tests/dinov3_ref/ranges/test_predict.py).
INT8_LEVELS_WANTED = 4.0

# A safe verdict names the site of the largest value if the limit is less than this factor away.
NAMED_BELOW = 16.0

_ALL = frozenset(ROLES)
_PRODUCTS = frozenset({"linear_in", "linear_out", "branch"})  # LayerScale is folded into the product
_CORE = frozenset({"scaled_query", "key", "value", "scaled_logits", "attended"})


@dataclass(frozen=True)
class Precision:
    """Which roles are stored in the low-precision type; all others are fp32."""

    about: str
    largest: float = FP32_LARGEST  # largest finite value of the low-precision type
    low_precision: frozenset[str] = _ALL
    scaled: frozenset[str] = frozenset()  # those of them that are scaled by powers of two where needed
    headroom: float = 1.0  # `scaled` roles are scaled if they exceed largest / headroom
    per_tensor_int8: bool = False
    caveat: str = ""  # what ranges cannot tell, behind a verdict of "safe"

    def limit(self, role: str) -> float:
        """The largest magnitude that a value of `role` may have."""
        return self.largest if role in self.low_precision - self.scaled else FP32_LARGEST


PRECISIONS: dict[str, Precision] = {
    "plain fp16 cast": Precision(
        "model.half(): everything but logits, which fused attention keeps in fp32",
        FP16_LARGEST,
        _ALL - {"scaled_query", "logits", "scaled_logits"},
    ),
    "eager fp16 cast": Precision(
        "everything, logits too, attention written out with the scale after q·k",
        FP16_LARGEST,
        _ALL - {"scaled_query"},
    ),
    "fp32": Precision("everything in fp32"),
    "fp16": Precision(
        "the fp16 recipe: products and attention, linear layers scaled where needed",
        FP16_LARGEST,
        _PRODUCTS | _CORE,
        scaled=_PRODUCTS,
        headroom=16.0,
    ),
    "bf16": Precision("the bf16 recipe: products and attention", BF16_LARGEST, _PRODUCTS | _CORE),
    "bf16-residual": Precision(
        "the bf16-residual recipe: products, attention and the residual stream",
        BF16_LARGEST,
        _PRODUCTS | _CORE | {"residual"},
        caveat=", rounding is for the judge",
    ),
    "int8": Precision("the int8 recipe: attention in fp16, linear layers calibrated", FP16_LARGEST, _CORE),
    "fp8": Precision("the fp8 recipe: attention in fp16, linear layers calibrated", FP16_LARGEST, _CORE),
    "plain int8": Precision(
        "per-tensor static activations, without smoothing", low_precision=frozenset(), per_tensor_int8=True
    ),
}


@dataclass(frozen=True)
class Prediction:
    """Prediction for one precision.

    `site`: the first overflow in order of computation, else the low-precision value nearest to the limit
    (None if all are scaled); for int8 the value with the most uneven channels. `value` is what was measured
    there and `limit` what fits: magnitudes, or for int8 the ratio of the largest channel to the median one.
    `scaled` names the linear layers that the recipe scales, the largest first.
    """

    recipe: str
    about: str  # what runs in low precision
    safe: bool
    site: str | None
    value: float
    limit: float
    scaled: tuple[str, ...]
    verdict: str  # one line

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not finite becomes None."""
        facts: dict[str, Any] = plain(asdict(self))
        return facts


def predict(ranges: Ranges) -> tuple[Prediction, ...]:
    """One prediction for each of PRECISIONS, in its order."""
    return tuple(
        _lost_resolution(name, precision, ranges)
        if precision.per_tensor_int8
        else _overflow(name, precision, ranges)
        for name, precision in PRECISIONS.items()
    )


def _overflow(name: str, precision: Precision, ranges: Ranges) -> Prediction:
    scaled, about = _scaled(precision, ranges), precision.about
    for site in ranges.sites:
        limit = precision.limit(site.role)
        if not site.largest <= limit:
            verdict = f"overflows first at {site.name} ({short(site.largest)} > {short(limit)})"
            return Prediction(name, about, False, site.name, site.largest, limit, scaled, verdict)
    limit = precision.largest
    held = [site for site in ranges.sites if precision.limit(site.role) == limit]
    nearest = max(held, key=lambda site: site.largest, default=None)
    verdict = ", ".join(_reassurances(limit, nearest, scaled))
    where, value = (nearest.name, nearest.largest) if nearest is not None else (None, 0.0)
    return Prediction(name, about, True, where, value, limit, scaled, f"safe: {verdict}{precision.caveat}")


def _reassurances(limit: float, nearest: Site | None, scaled: tuple[str, ...]) -> Iterator[str]:
    if nearest is None:  # a ConvNeXt has no attention, so all low-precision values can be scaled
        yield "every low-precision value is scaled where needed"
    else:
        room = limit / nearest.largest if nearest.largest else math.inf
        where = f" at {nearest.name}" if room < NAMED_BELOW else ""
        yield f"{short(room)}x to spare{where}" if room < 1e6 else "far from the limit"
    if scaled:
        yield f"scales {scaled[0] if len(scaled) == 1 else f'{len(scaled)} layers'}"


def _scaled(precision: Precision, ranges: Ranges) -> tuple[str, ...]:
    """Linear layers whose input or output comes near the limit of the type, the largest first."""
    limit = precision.largest / precision.headroom
    found: dict[str, float] = {}
    for site in ranges.sites:
        if site.role in precision.scaled and site.largest > limit:
            layer = site.name.partition(" ")[0]
            found[layer] = max(found.get(layer, 0.0), site.largest)
    return tuple(sorted(found, key=found.__getitem__, reverse=True))


def _lost_resolution(name: str, precision: Precision, ranges: Ranges) -> Prediction:
    """Per-tensor int8: judged by the input of a linear layer whose median channel gets the fewest levels."""
    spreads = {f"{b.name}.{key}": spread for b in ranges.blocks for key, spread in b.spreads.items()}
    limit = INT8_LEVELS / INT8_LEVELS_WANTED
    if not spreads:
        return Prediction(name, precision.about, True, None, 1.0, limit, (), "safe: no linear layer was seen")
    site = max(spreads, key=lambda key: spreads[key].ratio)
    ratio = spreads[site].ratio
    words = f"{INT8_LEVELS / ratio:.2g} of {INT8_LEVELS} levels (spread {short(ratio)}x)"
    safe = ratio <= limit
    verdict = f"safe: {words} at {site}" if safe else f"starves at {site}: {words}"
    return Prediction(name, precision.about, safe, site, ratio, limit, (), verdict)


def short(value: float) -> str:
    """A magnitude in at most seven characters: 0.0123, 1.5, 155, 155,693, 1.6e6, inf."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= value < 999_999.5:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
