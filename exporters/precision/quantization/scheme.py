"""The quantization scheme of an 8-bit export: smoothing and static range of every group in 8 bits.

The graph for GPUs uses both. The graph for every CPU uses only smoothing, and scales every token by its own
maximum. The one for CPUs with VNNI uses the static range where outliers allow (`GroupScheme.static`).
Smoothing moves outlier channels from activations into weights. SmoothQuant (arXiv:2211.10438, eq. 4) divides
input channel j by s_j = a_j^α / w_j^(1-α), where a_j is the channel's largest activation and w_j its largest
weight, and multiplies the weights by s_j. Three differences here: α is chosen for each group by its error on
calibration tokens, s is a power of two (so smoothing is exact in fp32), and no smoothing is a choice too.

Shapes: T tokens, K input channels, N output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from exporters.precision.quantization.observe import Group, Observation
from exporters.precision.quantization.rounding import (
    FORMATS,
    PORTABLE,
    TINY,
    VNNI,
    Format,
    fake_per_token,
    fake_static,
    fake_weight,
    relative_error,
)
from exporters.trace.fold import Weights

ALPHAS = (0.4, 0.5, 0.6, 0.75, 0.9)  # around arXiv:2211.10438's 0.5 and 0.75
CLIPS = (1.0, 0.95, 0.9)  # share of the largest activation; smaller ones clip massive tokens and gain nothing
# By how much the error of one scale for all tokens may exceed that of a scale per token. Ordinary layers have
# 1.05 to 1.8; inputs of SwiGLU's last layer with outliers 3 to 9 (planted models, benchmarks/LOG.md).
STATIC_ERROR = 2.0


def smoothing_scale(channel_max: Tensor, weight_NK: Tensor, alpha: float) -> Tensor:
    """s [K] from channel_max [K]: powers of two, median about 1; a channel that is always zero keeps 1."""
    a, w = channel_max.clamp_min(TINY), weight_NK.abs().amax(dim=0).clamp_min(TINY)
    log = alpha * a.log2() - (1 - alpha) * w.log2()
    alive = (channel_max > TINY) & (weight_NK.abs().amax(dim=0) > TINY)
    log = torch.where(alive, log - log[alive].median() if bool(alive.any()) else log, torch.zeros_like(log))
    return torch.exp2(log.round().clamp(-20, 20))


def choose_scale(seen: Observation, weight_NK: Tensor, form: Format) -> Tensor:
    """s [K]: the best of `ALPHAS` and of no smoothing, by the errors of static plus per-token scales."""
    wanted = seen.tokens @ weight_NK.T
    candidates = [torch.ones_like(seen.channel_max)]
    candidates += [smoothing_scale(seen.channel_max, weight_NK, alpha) for alpha in ALPHAS]
    errors = []
    for scale in candidates:
        tokens, weight = seen.tokens / scale, fake_weight(weight_NK * scale, form).T
        static = fake_static(tokens, float((seen.channel_max / scale).max()), form)
        errors.append(
            relative_error(fake_per_token(tokens, PORTABLE) @ weight, wanted)
            + relative_error(static @ weight, wanted)
        )
    best = min(range(len(errors)), key=errors.__getitem__)
    return candidates[best]


def choose_static(seen: Observation, scale: Tensor, weight_NK: Tensor, form: Format) -> float:
    """The static range: the best of `CLIPS` times the largest activation after smoothing by `scale` [K]."""
    wanted = seen.tokens @ weight_NK.T
    tokens, weight = seen.tokens / scale, fake_weight(weight_NK * scale, form).T
    top = float((seen.channel_max / scale).max())
    errors = {
        clip * top: relative_error(fake_static(tokens, clip * top, form) @ weight, wanted) for clip in CLIPS
    }
    return min(errors, key=errors.__getitem__)


def allows_static(seen: Observation, scale: Tensor, largest: float, weight_NK: Tensor, form: Format) -> bool:
    """Whether a static range is nearly as exact as a scale per token, both with the levels of VNNI."""
    wanted = seen.tokens @ weight_NK.T
    tokens, weight = seen.tokens / scale, fake_weight(weight_NK * scale, form).T
    static = relative_error(fake_static(tokens, largest, form) @ weight, wanted)
    return static <= STATIC_ERROR * relative_error(fake_per_token(tokens, VNNI) @ weight, wanted)


def fold_smoothing(weights: Weights, group: Group, scale: Tensor) -> None:
    """Multiply the columns of the group's weights by `scale` [K], and divide the rows of its carriers.

    Exact, because every factor is a power of two. Without carriers the graph divides (`write.py`).
    """
    for linear in group.linears:
        _wrap(weights, f"{linear}.weight", lambda weight_NK: weight_NK * scale)
    for name in group.carriers:
        if name in weights:
            _wrap(weights, name, partial(_over_rows, scale))


def group_weight(weights: Weights, linears: Sequence[str]) -> Tensor:
    """The weights of a group, stacked: [N,K], with all folds so far."""
    return torch.cat([weights[f"{linear}.weight"]().detach() for linear in linears])


def _wrap(weights: Weights, name: str, change: Callable[[Tensor], Tensor]) -> None:
    inner = weights[name]
    weights[name] = lambda: change(inner().detach())


def _over_rows(scale: Tensor, tensor: Tensor) -> Tensor:
    return tensor / (scale[:, None] if tensor.dim() == 2 else scale)


@dataclass(frozen=True)
class GroupScheme:
    """A group in 8 bits: its input is divided by `smoothing` [K], then clipped to ±`largest`.

    static: whether CPUs may use `largest` for every token; else they scale each token by its own maximum.
    """

    group: Group
    smoothing: Tensor
    largest: float
    static: bool = True

    @property
    def needs_mul(self) -> bool:
        """Whether the graph needs a Mul for the smoothing, because no weight can carry it."""
        return not self.group.carriers and bool((self.smoothing != 1).any())


@dataclass(frozen=True)
class QuantScheme:
    """The groups in 8 bits; layers that are in no group keep 16 bits."""

    format: str  # int8 or fp8
    groups: tuple[GroupScheme, ...]

    def by_linear(self) -> dict[str, GroupScheme]:
        """Group by the path of each linear layer in the meta copy."""
        return {linear: scheme for scheme in self.groups for linear in scheme.group.linears}


def make_scheme(
    weights: Weights, groups: Sequence[Group], seen: Mapping[str, Observation], form: str
) -> QuantScheme:
    """Choose smoothing and range of each group by measured error; does not change the weights."""
    schemes = []
    for group in groups:
        observation = seen[group.path]
        weight = group_weight(weights, group.linears)
        scale = choose_scale(observation, weight, FORMATS[form])
        largest = choose_static(observation, scale, weight, FORMATS[form])
        static = allows_static(observation, scale, largest, weight, FORMATS[form])
        schemes.append(GroupScheme(group, scale, largest, static))
    return QuantScheme(form, tuple(schemes))


def fold_scheme(weights: Weights, scheme: QuantScheme) -> None:
    """Fold the smoothing of every group into the table of weights."""
    for group in scheme.groups:
        fold_smoothing(weights, group.group, group.smoothing)
