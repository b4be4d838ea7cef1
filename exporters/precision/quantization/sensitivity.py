"""Choose the layers that fall back to 16 bits: measure each group's error alone, drop the most sensitive.

Errors are measured in fp32, on the reference with some linear layers rounded to 8 bits.

Shapes: B images, D embed_dim, K input channels, N output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.models import Backbone, named_blocks
from exporters.precision.quantization.rounding import (
    FORMATS,
    PORTABLE,
    Format,
    fake_per_token,
    fake_static,
    fake_weight,
)
from exporters.precision.quantization.scheme import GroupScheme, QuantScheme
from exporters.trace.fold import Weights


@contextmanager
def simulate_8_bits(
    model: nn.Module, schemes: Sequence[GroupScheme], form: str, *, per_token: bool
) -> Iterator[None]:
    """While open, the layers of `schemes` compute in `model` as they do in the 8-bit graph.

    `per_token`: activations have a scale per token, as in the CPU graph for every CPU; else their static one.
    """
    with ExitStack() as changes:
        for scheme in schemes:
            for module in _layers(model, scheme):
                weight, smoothing = module.weight.data, scheme.smoothing
                changes.callback(setattr, module.weight, "data", weight)
                module.weight.data = fake_weight(weight * smoothing, FORMATS[form]) / smoothing
                hook = _hook(scheme, FORMATS[form], per_token)
                changes.enter_context(module.register_forward_pre_hook(hook))
        yield


def _layers(model: nn.Module, scheme: GroupScheme) -> Iterator[Any]:
    """The linear layers of a group in the reference, where qkv is one layer."""
    paths = (scheme.group.observed, *(path for path in scheme.group.linears if path.endswith(".w2")))
    for path in dict.fromkeys(paths):
        module = model.get_submodule(path)
        assert isinstance(module, nn.Linear)
        yield module


def _hook(scheme: GroupScheme, form: Format, per_token: bool) -> Any:
    def round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0] / scheme.smoothing
        x = fake_per_token(x, PORTABLE) if per_token else fake_static(x, scheme.largest, form)
        return (x * scheme.smoothing, *inputs[1:])

    return round_input


def features(model: Backbone, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Normalised pixels [B,3,H,W] in batches -> (CLS, mean patch), [images,D] each."""
    with torch.inference_mode():
        outputs = [model(batch, is_training=True) for batch in batches]
    cls = torch.cat([out["x_norm_clstoken"] for out in outputs])
    return cls, torch.cat([out["x_norm_patchtokens"].mean(dim=1) for out in outputs])


def features_inside(
    model: nn.Module, batches: Sequence[Tensor], backbones: Mapping[str, Backbone]
) -> tuple[Tensor, ...]:
    """For a whole model, of each backbone: (first token, mean of the others) after the last block that ran.

    Of a ConvNeXt's map its mean, twice. [images,D] each.
    """
    seen: dict[str, list[Tensor]] = {}
    found: list[dict[str, Tensor]] = []

    def keep(path: str) -> Any:
        def record(module: Any, inputs: Any, output: Tensor | list[Tensor]) -> None:
            found[-1][path] = output[0] if isinstance(output, list) else output

        return record

    with ExitStack() as hooks, torch.inference_mode():
        for path, backbone in backbones.items():
            for _, block in named_blocks(backbone):
                hooks.enter_context(block.register_forward_hook(keep(path)))
        for batch in batches:
            found.append({})
            model(batch)
    with torch.inference_mode():
        for made in found:
            for path, x in made.items():
                backbone = backbones[path]
                x_BLD = x.flatten(2).transpose(1, 2) if x.dim() == 4 else x
                if x_BLD.shape[-1] == backbone.embed_dim:  # not an early stage
                    x_BLD = backbone.norm(x_BLD)
                first = x_BLD.mean(dim=1) if x.dim() == 4 else x_BLD[:, 0]
                seen.setdefault(f"{path}:first", []).append(first)
                seen.setdefault(f"{path}:mean", []).append(x_BLD[:, 1:].mean(dim=1))
    return tuple(torch.cat(parts) for parts in seen.values())


# pixels [B,3,H,W] in batches -> vectors [images,D] of each image
Features = Callable[[Any, Sequence[Tensor]], tuple[Tensor, ...]]
IMAGES = 4  # of the calibration images: every group costs a forward pass over them
TARGET = 0.08  # relative error of CLS and mean patch; a cosine of 0.997
FALLBACK_BUDGET = 0.15  # largest share of the linear layers' work in 16 bits: 80 % of all stays in 8 bits


@dataclass(frozen=True)
class FallbackSearch:
    """The remaining scheme, the groups taken out of it, and the relative error before and after."""

    scheme: QuantScheme
    before: float
    after: float
    fallback_layers: tuple[str, ...]  # paths of groups that stay in 16 bits


def choose_fallback_layers(
    model: nn.Module,
    weights: Weights,
    scheme: QuantScheme,
    batches: Sequence[Tensor],
    log: Callable[[str], None],
    features: Features = features,
) -> FallbackSearch:
    """Take groups out of `scheme` until its error is within `TARGET` or `FALLBACK_BUDGET` is spent.

    `batches` are normalised pixels [B,3,H,W]; `features` is what must not change. Squared errors of groups
    are taken to add up. If the final error is not at least 10 % smaller, no group falls back.
    """
    wanted = features(model, batches)

    def error(groups: Sequence[GroupScheme]) -> float:
        with simulate_8_bits(model, groups, scheme.format, per_token=False):
            return feature_error(features(model, batches), wanted)

    before = error(scheme.groups)
    if before <= TARGET:
        return FallbackSearch(scheme, before, before, ())
    alone: dict[str, float] = {}
    for index, group in enumerate(scheme.groups):
        log(f"sensitivity: {index + 1} of {len(scheme.groups)} groups")
        alone[group.group.path] = error([group])
    work = {group.group.path: _work(weights, group) for group in scheme.groups}
    dropped = _most_sensitive(alone, work)
    left = tuple(group for group in scheme.groups if group.group.path not in dropped)
    after = error(left) if dropped else before
    if after > 0.9 * before:
        return FallbackSearch(scheme, before, before, ())
    return FallbackSearch(replace(scheme, groups=left), before, after, tuple(dropped))


def _most_sensitive(alone: dict[str, float], work: dict[str, int]) -> list[str]:
    """Groups that fall back: those with the most squared error per work first."""
    budget = FALLBACK_BUDGET * sum(work.values())
    left = sum(error**2 for error in alone.values())
    dropped = []
    for path in sorted(alone, key=lambda path: alone[path] ** 2 / work[path], reverse=True):
        if left <= TARGET**2:
            break
        if work[path] <= budget:
            budget -= work[path]
            left -= alone[path] ** 2
            dropped.append(path)
    return dropped


def _work(weights: Weights, scheme: GroupScheme) -> int:
    """Multiplications per patch of the output."""
    group = scheme.group
    return group.positions * sum(weights[f"{linear}.weight"]().numel() for linear in group.linears)


def feature_error(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """Relative error of `features`: root mean square over images; the largest of CLS's and the mean patch's.

    Infinite if a value is NaN.
    """
    pairs = zip(got, wanted, strict=True)
    errors = [((a - b).norm(dim=1) / b.norm(dim=1)).square().mean().sqrt() for a, b in pairs]
    worst = float(torch.stack(errors).max())
    return worst if worst == worst else float("inf")
