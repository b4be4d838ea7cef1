"""The page on precision recipes, generated from the code: types by role, and the judge's limits."""

from __future__ import annotations

from collections.abc import Iterator

from dinodeploy.parity.thresholds import HEAD_THRESHOLDS, PIXEL_THRESHOLDS, THRESHOLDS, Threshold
from exporters.precision.recipes import FP32, LINEAR, RECIPES, RESIDUAL, SIXTEEN, TYPED_ONLY, Recipe

HEAD = """# Precision recipes

What each recipe is for, and how it works: [Precision](../precision.md). Everything that a recipe does not
name is fp32: LayerNorm, biases, GELU, RoPE, and but for `bf16-residual` the residual stream.

## Types by role

`qkv out ffn_in ffn_out` are the linear layers, `scores softmax values` attention, `depthwise downsample` the
convolutions of a ConvNeXt, `patches` the patch embedding (on GPUs; fp32 on CPUs), `residual` the sums of the
residual stream. A linear layer that needs more than 8 bits runs in the type in brackets.
"""
JUDGED = """
## The judge's limits

A bundle is written, and an engine is used, only if every number is within its limit. `measured` is the
worst value when the limit was set.
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *_types(), JUDGED, *_limits(), ""])


def _types() -> Iterator[str]:
    yield "| role | " + " | ".join(f"`{name}`" for name in RECIPES) + " |"
    yield "|---" * (len(RECIPES) + 1) + "|"
    for role in (*LINEAR, *SIXTEEN, *TYPED_ONLY, RESIDUAL):
        yield f"| `{role}` | " + " | ".join(_type(recipe, role) for recipe in RECIPES.values()) + " |"


def _type(recipe: Recipe, role: str) -> str:
    """The type of a role; in brackets the fallback of a linear layer."""
    back = f" ({_short(recipe.fallback)})" if recipe.quantized and role in LINEAR else ""
    return _short(recipe.roles.get(role, FP32)) + back


def _short(type_: object) -> str:
    """`FLOAT16` -> fp16, as the recipes are called."""
    name = str(getattr(type_, "name", type_)).lower()
    return {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8e4m3fn": "E4M3"}.get(name, name)


def _limits() -> Iterator[str]:
    yield from ("| recipe | measure | limit | measured |", "|---|---|---|---|")
    for recipe, thresholds in THRESHOLDS.items():
        for threshold in (*thresholds, *HEAD_THRESHOLDS[recipe]):
            yield _row(f"`{recipe}`", threshold)
    for threshold in PIXEL_THRESHOLDS:
        yield _row("pixels, grey levels of 255", threshold)


def _row(of: str, threshold: Threshold) -> str:
    bound = "at least" if threshold.at_least else "at most"
    return f"| {of} | {threshold.metric} | {bound} {threshold.limit:g} | {threshold.measured:.7g} |"
