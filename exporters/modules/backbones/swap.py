"""Find the DINOv3 backbones in a module, and make a copy of it with ours in their place.

    library       classes                                        what is replaced
    dinodeploy    DinoVisionTransformer, ConvNeXt                nothing: they are ours
    official      DinoVisionTransformer, ConvNeXt                the whole model: ours has the same methods
    transformers  DINOv3ViT and DINOv3ConvNext Model, Backbone   layers and RoPE; stages
    timm          Eva with DINOv3's RoPE, ConvNeXt, their        blocks and RoPE; stem and stages
                  feature extractors

Tensors are shared with the module, which stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dinodeploy.errors import ExportError, reason_of
from dinov3_ref.checkpoints.layouts.hf import NORM_BY_EPS
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer
from exporters.modules.backbones import from_timm, from_transformers
from exporters.modules.backbones.build import build_backbone
from exporters.modules.whole import tensors_of


@dataclass(frozen=True)
class Library:
    """Models of one library: how they are recognised, and what puts our backbone into a copy of one.

    `put` returns our backbone; with `whole`, that takes the place of the whole model.
    """

    name: str
    package: str  # first part of the class's module name
    classes: tuple[str, ...]
    put: Callable[[Any, str], Backbone]
    fits: Callable[[nn.Module], bool] = lambda model: True
    whole: bool = False

    def matches(self, model: nn.Module) -> bool:
        """Whether `model`, or a class that it is derived from, is one of these."""
        names = {
            one.__name__ for one in type(model).__mro__ if one.__module__.partition(".")[0] == self.package
        }
        return bool(names & set(self.classes)) and self.fits(model)


def put_official(model: Any, where: str) -> Backbone:
    """Our model with the weights and the options of the official class."""
    hints: dict[str, Any] = {}
    if hasattr(model, "rope_embed"):
        eps = model.blocks[0].norm1.eps
        hints = {
            "num_heads": model.num_heads,
            "norm_layer": NORM_BY_EPS.get(eps, "layernormbf16"),
            "pos_embed_rope_normalize_coords": model.rope_embed.normalize_coords,
        }
    return build_backbone(model.state_dict(), where, hints=hints)


LIBRARIES: tuple[Library, ...] = (
    Library("official", "dinov3", ("DinoVisionTransformer", "ConvNeXt"), put_official, whole=True),
    Library("transformers", "transformers", from_transformers.VIT, from_transformers.put_vit),
    Library("transformers", "transformers", from_transformers.CONVNEXT, from_transformers.put_convnext),
    Library("timm", "timm", ("Eva",), from_timm.put_eva, from_timm.is_dinov3),
    Library("timm", "timm", ("ConvNeXt",), from_timm.put_convnext, from_timm.is_convnext),
    Library("timm", "timm", ("FeatureDictNet",), from_timm.put_feature_list, from_timm.is_feature_list),
)


@dataclass(frozen=True)
class Found:
    """A backbone in a module: its path there, and whose class it is."""

    path: str
    library: str
    name: str  # of the class


def swap(module: nn.Module) -> tuple[nn.Module, tuple[Found, ...]]:
    """A copy of `module` in which every DINOv3 backbone is ours, and what was found.

    Raises ExportError where there is no backbone, for one that ours cannot replace, and for a module that
    cannot be copied.
    """
    try:
        made = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors_of(module).values()})
    except Exception as error:  # a user's own attributes may raise any class
        raise ExportError(
            f"{type(module).__name__} cannot be copied: {reason_of(error)}; keep what is not a module or a "
            "tensor (files, locks, clients) out of its attributes"
        ) from error
    found: list[Found] = []
    inside: list[str] = []  # prefixes of paths in a backbone
    for path, part in list(made.named_modules()):
        if any(path.startswith(prefix) for prefix in inside):
            continue
        if isinstance(part, (DinoVisionTransformer, ConvNeXt)):
            found.append(Found(path, "dinodeploy", type(part).__name__))
        elif library := next((one for one in LIBRARIES if one.matches(part)), None):
            where = f"{path or 'the module'} ({type(part).__name__})"
            backbone = library.put(part, where)
            if library.whole:
                made = _replace(made, part, backbone)
            found.append(Found(path, library.name, type(part).__name__))
        else:
            continue
        inside.append(f"{path}." if path else "")
    if not found:
        raise ExportError(
            f"{type(module).__name__} has no DINOv3 backbone inside; wanted a DinoVisionTransformer or "
            "ConvNeXt of dinov3_ref or the official code, a DINOv3 Model or Backbone of transformers (ViT, "
            "ConvNeXt), or a *_dinov3 model of timm"
        )
    return made, tuple(found)


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """`root` with `new` wherever `old` is."""
    if root is old:
        return new
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
    return root
