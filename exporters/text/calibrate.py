"""Calibrate the text tower for an 8-bit recipe: captions in, quantization scheme out.

The steps are those of images (`exporters/precision/quantization`). Every caption is read alone, without what
is behind its end token.

Shapes: T texts, N tokens of each, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from dinov3_ref.text import TextTower, Tokenizer
from exporters.precision.quantization.calibrate import Calibrated
from exporters.precision.quantization.observe import find_groups, observe
from exporters.precision.quantization.scheme import make_scheme
from exporters.precision.quantization.sensitivity import choose_fallback_layers
from exporters.precision.recipes import Override, Recipe
from exporters.text.texts import CALIBRATION_TEXTS
from exporters.trace.fold import Weights

TRIED = 8  # captions that every group of layers is tried on: each group costs a pass over them


def calibrate_text(
    tower: TextTower,
    weights: Weights,
    tokenizer: Tokenizer,
    recipe: Recipe,
    overrides: Sequence[Override],
    log: Callable[[str], None],
) -> Calibrated:
    """Choose ranges and smoothing on the shipped captions, and leave the most sensitive layers in 16 bits."""
    form = recipe.quantized
    assert form is not None
    patterns = [pattern for pattern, _ in overrides]
    groups = [
        group
        for group in find_groups(tower)
        if not any(fnmatchcase(path, pattern) for path in group.linears for pattern in patterns)
    ]
    ids = tokenizer.tokenize(CALIBRATION_TEXTS)
    log(f"calibrating the text tower on {len(ids)} captions")
    scheme = make_scheme(weights, groups, observe(tower, groups, one_by_one(ids), len(ids)), form)
    tried = list(one_by_one(ids[:: len(ids) // TRIED][:TRIED]))
    search = choose_fallback_layers(tower, weights, scheme, tried, log, text_features)
    notes: tuple[str, ...] = ()
    if search.fallback_layers:
        notes = (
            f"text: {len(search.fallback_layers)} of {len(groups)} groups of layers fall back to 16 bits: "
            f"error {search.before:.3f} before, {search.after:.3f} after "
            f"({', '.join(search.fallback_layers)})",
        )
    return Calibrated(search.scheme, len(ids), search.fallback_layers, notes)


def one_by_one(ids_TN: Tensor) -> Iterator[Tensor]:
    """Each text as [1,n], up to its end token."""
    for row, end in zip(ids_TN, ids_TN.argmax(dim=1).tolist(), strict=True):
        yield row[None, : end + 1]


def text_features(tower: nn.Module, batches: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Texts in batches -> their embeddings [T,E]."""
    with torch.inference_mode():
        return (torch.cat([tower(ids) for ids in batches]),)
