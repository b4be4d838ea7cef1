"""The official torch.hub entry points: released models by name (docs/spec.md 1.3, 1.4).

    model = dinov3_ref.load("dinov3_vits16", weights="dinov3_vits16_pretrain_lvd1689m-08c60483.pth")
    model = torch.hub.load("path/to/dinodeploy", "dinov3_vits16", weights="LVD1689M", source="local")

A model has the released configuration (four storage tokens, RoPE rescaled by 2 …), not the defaults of the
class, which are those of training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch

from dinov3_ref.checkpoints import build_model, fetch, load_checkpoint
from dinov3_ref.errors import CheckpointError, ConfigError, reason_of
from dinov3_ref.models import Backbone, ConvNeXt, ConvNeXtConfig, DinoVisionTransformer
from dinov3_ref.models.released import RELEASED, find_released


class Weights(Enum):
    """The two training sets that released weights come from."""

    LVD1689M = "LVD1689M"  # photographs of the web
    SAT493M = "SAT493M"  # satellite images; ViT-L and 7B only


def load(
    name: str,
    weights: Weights | str | Path = Weights.LVD1689M,
    *,
    pretrained: bool = True,
    check_hash: bool = False,
    **options: Any,
) -> Backbone:
    """A released backbone in eval mode, in fp32, on the CPU.

    name: of torch.hub, Hugging Face or timm, or an architecture such as vit_small. weights: LVD1689M or
    SAT493M (fetched from the Hugging Face hub, or found in its cache), a file or folder in any layout, or a
    file: or https: URL. pretrained: False gives random weights, as at the start of a training. check_hash:
    compare the SHA-256 of a file with the eight digits at the end of its name, as torch.hub does. options:
    fields of the configuration that change no shape, such as drop_path_rate; without `pretrained` any.

    Raises `ConfigError` for an unknown name or option, `CheckpointError` for a file that is not this model's,
    `HubError` when the weights cannot be fetched.
    """
    row = find_released(name)
    if row is None:
        raise ConfigError(f"{name!r} was never released; known: {', '.join(row.name for row in RELEASED)}")
    config = row.config
    known = [field.name for field in fields(config)]
    if unknown := [option for option in options if option not in known]:
        raise ConfigError(f"{row.name} has no option {unknown[0]!r}; known: {', '.join(known)}")
    if not pretrained:
        kind = ConvNeXt if isinstance(config, ConvNeXtConfig) else DinoVisionTransformer
        model: Backbone = kind(**replace(config, **options).kwargs())
        model.init_weights()
        return model.eval()
    dataset = weights.value if isinstance(weights, Weights) else str(weights)
    if dataset in Weights.__members__:
        checkpoint = load_checkpoint(fetch(row.name, dataset=dataset.lower()), arch=row.arch)
    else:
        path = _local(str(weights))
        checkpoint = load_checkpoint(path, arch=row.arch)
        if check_hash:
            _check_hash(path, checkpoint.sha256)
    return build_model(replace(checkpoint, config=replace(checkpoint.config, **options)))


def _local(weights: str) -> Path:
    """The file that `weights` means; a URL is downloaded into torch's cache, once."""
    url = urlparse(weights)
    if url.scheme == "file":
        return Path(unquote(url.path))
    if url.scheme not in ("http", "https"):
        return Path(weights)
    target = Path(torch.hub.get_dir(), "checkpoints", Path(unquote(url.path)).name)
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights, str(target))
        except OSError as error:  # urllib's errors are OSErrors
            raise CheckpointError(
                f"{target.name} cannot be downloaded: {reason_of(error)}; Meta's links expire: ask for new "
                "ones, or give the path of a file"
            ) from error
    return target


def _check_hash(path: Path, sha256: str) -> None:
    wanted = path.stem.rpartition("-")[2]
    if not sha256.startswith(wanted) or len(wanted) != 8:
        raise CheckpointError(
            f"{path.name} has the SHA-256 {sha256[:8]}…; wanted the eight digits at the end of its name: it "
            "is damaged, or renamed (then leave check_hash out)"
        )


def _entry_point(name: str) -> Callable[..., Backbone]:
    def entry_point(
        *,
        pretrained: bool = True,
        weights: Weights | str | Path = Weights.LVD1689M,
        check_hash: bool = False,
        **options: Any,
    ) -> Backbone:
        return load(name, weights, pretrained=pretrained, check_hash=check_hash, **options)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"The backbone {name}; arguments as `dinov3_ref.load`."
    return entry_point


dinov3_vits16 = _entry_point("dinov3_vits16")
dinov3_vits16plus = _entry_point("dinov3_vits16plus")
dinov3_vitb16 = _entry_point("dinov3_vitb16")
dinov3_vitl16 = _entry_point("dinov3_vitl16")
dinov3_vitl16plus = _entry_point("dinov3_vitl16plus")
dinov3_vith16plus = _entry_point("dinov3_vith16plus")
dinov3_vit7b16 = _entry_point("dinov3_vit7b16")
dinov3_convnext_tiny = _entry_point("dinov3_convnext_tiny")
dinov3_convnext_small = _entry_point("dinov3_convnext_small")
dinov3_convnext_base = _entry_point("dinov3_convnext_base")
dinov3_convnext_large = _entry_point("dinov3_convnext_large")
