"""Trace a meta copy with torch.export; batch, height and width stay dynamic.

Shapes: B batch, H W pixels (multiples of the patch size or the stride), h w patch grid, R storage tokens,
E extra tokens of a user's model (docs/development/seed.md S40), N heads, L tokens, D embed_dim, C channels of
a ConvNeXt stage.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinodeploy.errors import ExportError, reason_of
from dinov3_ref.models import (
    Backbone,
    ConvNeXt,
    DinoVisionTransformer,
    input_channels,
    record_attention,
    stride_of,
)
from exporters.trace.channels_last import ChannelsLastConvNeXt
from exporters.trace.repeat import collapse_repeats

# Any size works, because the graph does not keep it. Off-square and with a batch of two, so that a dimension
# that did become a constant would be noticed.
TRACED_BATCH, TRACED_GRID = 2, (4, 6)


class TokenOutputs(nn.Module):
    """Image batch -> named outputs: `cls`, `storage`, `extra`, `patch`, `layer_<i>`, `cls_<i>`, `attention`.

    pixels [B,3,H,W] -> cls [B,D]; storage [B,R,D] and extra [B,E,D] (only if the model has such tokens);
    patch [B,h,w,D]; layer_<i>, the normed patch map [B,h,w,D] after block i; cls_<i>, the normed CLS token
    [B,D] there (of a ViT); attention [B,N,h,w], the
    attention weights from CLS to the patches in the last block, per head. In a ConvNeXt, layers are stages:
    [B,h,w,C] each at its own resolution, and only the last one is normed.
    """

    def __init__(
        self,
        model: Backbone,
        layers: Sequence[int] = (),
        *,
        attention: bool = False,
        cls_layers: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.layers, self.cls_layers = tuple(layers), tuple(cls_layers)
        self.attention = attention
        self.prefix = 1 if isinstance(model, ConvNeXt) else count_prefix(model)
        self.own_tokens = self.prefix - 1 - model.n_storage_tokens
        names = {"cls": 1, "storage": model.n_storage_tokens, "extra": self.own_tokens, "patch": 1}
        self.output_names = (
            *(name for name, count in names.items() if count),
            *(f"layer_{index}" for index in self.layers),
            *(f"cls_{index}" for index in self.cls_layers),
            *(["attention"] if attention else []),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.model, ConvNeXt):
            return self._of_stages(self.model, pixels)
        return self._of_blocks(self.model, pixels)

    def _of_blocks(self, model: DinoVisionTransformer, pixels: Tensor) -> tuple[Tensor, ...]:
        tokens, (h, w) = model.prepare_tokens_with_masks(pixels)
        maps: dict[int, Tensor] = {}
        cls: dict[int, Tensor] = {}
        with self._watched(model) as weights:
            for index, after_block in enumerate(model.run_blocks([tokens], [(h, w)])):
                tokens = after_block[0]
                if index in self.layers or index in self.cls_layers:
                    prefix, patches = model.norm_tokens(tokens, h * w)
                    maps[index], cls[index] = patches.unflatten(1, (h, w)), prefix[:, 0]
        chosen = [*(maps[index] for index in self.layers), *(cls[index] for index in self.cls_layers)]
        for weights_BN1L in weights.values():
            chosen.append(weights_BN1L[:, :, 0, self.prefix :].unflatten(-1, (h, w)))
        prefix, patches = model.norm_tokens(tokens, h * w)
        own = 1 + model.n_storage_tokens
        storage = (prefix[:, 1:own],) if model.n_storage_tokens else ()
        extra = (prefix[:, own:],) if self.own_tokens else ()
        return (prefix[:, 0], *storage, *extra, patches.unflatten(1, (h, w)), *chosen)

    def _watched(self, model: DinoVisionTransformer) -> AbstractContextManager[dict[int, Tensor]]:
        return record_attention(model, queries=1) if self.attention else nullcontext({})

    def _of_stages(self, model: ConvNeXt, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = model.channels_last_maps(pixels)
        last = maps[-1]
        # normed again if the last stage is an output too: two outputs may not be the same tensor
        chosen = [model.norm(last) if maps[index] is last else maps[index] for index in self.layers]
        return (model.norm(last.mean((1, 2))), model.norm(last), *chosen)


def count_prefix(model: DinoVisionTransformer) -> int:
    """Number of tokens before the patches, a user's own tokens included. Raises ExportError.

    Checked at two image sizes: a model with a fixed size cannot be exported, because height and width are
    dynamic.
    """
    found = set()
    for h, w in (TRACED_GRID, (3, 5)):
        weight = model.patch_embed.proj.weight
        p = model.patch_size
        pixels = torch.zeros(  # not empty: `watch_linears` may be recording
            1, model.patch_embed.in_chans, h * p, w * p, device=weight.device, dtype=weight.dtype
        )
        try:
            with torch.no_grad():
                tokens, grid = model.prepare_tokens_with_masks(pixels)
        except Exception as error:  # a user's own layers may raise any class
            raise ExportError(
                f"this model cannot be exported: it does not accept images of any size: {reason_of(error)}"
            ) from error
        found.add(tokens.shape[1] - grid[0] * grid[1])
    if len(found) != 1 or min(found) < 1 + model.n_storage_tokens:
        raise ExportError(
            f"this model cannot be exported: {sorted(found)} tokens come before the patches at two sizes; "
            f"wanted the same number at every size, at least CLS and {model.n_storage_tokens} storage tokens"
        )
    return found.pop()


def trace(module: TokenOutputs, *, every_block: bool = False) -> ExportedProgram:
    """The exported program of a module on the meta device; batch and patch grid stay symbolic.

    It holds one of several identical blocks, and `to_graph` copies it for the others (`repeat.py`); with
    `every_block` it holds all of them.
    """
    model = module.model
    # attention reads the last block's input, so that block is traced
    seen = [*module.layers, *module.cls_layers, *([model.n_blocks - 2] if module.attention else [])]
    p, (h, w) = stride_of(model), TRACED_GRID
    pixels = torch.empty(TRACED_BATCH, input_channels(model), h * p, w * p, device="meta")
    sizes = {0: Dim("batch"), 2: p * Dim("rows"), 3: p * Dim("columns")}
    if isinstance(model, ChannelsLastConvNeXt) and model.any_size:
        sizes = {}  # gives the same graph (a test compares them) and saves minutes of symbolic arithmetic
    once = nullcontext() if every_block else collapse_repeats(model, seen)
    with torch.no_grad(), warnings.catch_warnings(), once:
        warnings.simplefilter("ignore")  # torch's own deprecation warnings
        return torch.export.export(
            module, (pixels,), dynamic_shapes=(sizes,) if sizes else None, strict=False
        )
