"""Trace a twin into an exported program with free batch, height and width.

Shapes: B batch, H W pixels (multiples of the patch size), h w patch grid, R storage tokens, E tokens of a
user's own (SEED S40), n heads, D embed_dim.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinodeploy.errors import ExportError, first_line
from dinov3_ref.models import DinoVisionTransformer, record_attention

# Any traced size will do: nothing of it stays in the graph. Off-square and with a batch of two, so that
# a dimension that did get baked in would show.
TRACED_BATCH, TRACED_GRID = 2, (4, 6)


class TokenOutputs(nn.Module):
    """One image batch in, named outputs out: `cls`, `storage`, `extra`, `patch`, `layer_<i>`, `attention`.

    pixels [B,3,H,W] -> cls [B,D], storage [B,R,D] and extra [B,E,D] (only where the model has such tokens),
    patch [B,h,w,D], for each chosen block the normed patch map [B,h,w,D], and with `attention` what CLS
    gives each patch in the last block, head by head, [B,n,h,w].
    """

    def __init__(
        self, model: DinoVisionTransformer, layers: Sequence[int] = (), *, attention: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)
        self.attention = attention
        self.prefix = count_prefix(model)
        self.own_tokens = self.prefix - 1 - model.n_storage_tokens
        names = {"cls": 1, "storage": model.n_storage_tokens, "extra": self.own_tokens, "patch": 1}
        self.output_names = (
            *(name for name, count in names.items() if count),
            *(f"layer_{index}" for index in self.layers),
            *(["attention"] if attention else []),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        tokens, (h, w) = self.model.prepare_tokens_with_masks(pixels)
        maps = []
        with self._watched() as weights:
            for index, after_block in enumerate(self.model.run_blocks([tokens], [(h, w)])):
                tokens = after_block[0]
                if index in self.layers:
                    maps.append(self.model.norm_tokens(tokens, h * w)[1].unflatten(1, (h, w)))
        for row_BnL in weights.values():
            maps.append(row_BnL[:, :, 0, self.prefix :].unflatten(-1, (h, w)))
        prefix, patches = self.model.norm_tokens(tokens, h * w)
        own = 1 + self.model.n_storage_tokens
        storage = (prefix[:, 1:own],) if self.model.n_storage_tokens else ()
        extra = (prefix[:, own:],) if self.own_tokens else ()
        return (prefix[:, 0], *storage, *extra, patches.unflatten(1, (h, w)), *maps)

    def _watched(self) -> AbstractContextManager[dict[int, Tensor]]:
        return record_attention(self.model, queries=1) if self.attention else nullcontext({})


def count_prefix(model: DinoVisionTransformer) -> int:
    """How many tokens come before the patches, a user's own included. Raises ExportError.

    Asked at two sizes: what takes only one cannot be exported, since batch, height and width are free.
    """
    found = set()
    for h, w in (TRACED_GRID, (3, 5)):
        weight = model.patch_embed.proj.weight
        p = model.patch_size
        pixels = torch.empty(
            1, model.patch_embed.in_chans, h * p, w * p, device=weight.device, dtype=weight.dtype
        )
        try:
            with torch.no_grad():
                tokens, grid = model.prepare_tokens_with_masks(pixels)
        except Exception as error:  # a user's own layers raise what they like
            raise ExportError(
                f"this model cannot be exported: it does not take images of any size, {first_line(error)}"
            ) from error
        found.add(tokens.shape[1] - grid[0] * grid[1])
    if len(found) != 1 or min(found) < 1 + model.n_storage_tokens:
        raise ExportError(
            f"this model cannot be exported: {sorted(found)} tokens come before the patches at two sizes; "
            f"wanted the same number at all, at least CLS and {model.n_storage_tokens} storage tokens"
        )
    return found.pop()


def trace(module: TokenOutputs) -> ExportedProgram:
    """Exported program of a meta-device module; batch and patch grid stay symbolic."""
    model = module.model
    p, (h, w) = model.patch_size, TRACED_GRID
    pixels = torch.empty(TRACED_BATCH, model.patch_embed.in_chans, h * p, w * p, device="meta")
    sizes = {0: Dim("batch"), 2: p * Dim("rows"), 3: p * Dim("columns")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, none of them about the model
        return torch.export.export(module, (pixels,), dynamic_shapes=(sizes,), strict=False)
