"""Trace a twin into an exported program with free batch, height and width.

Shapes: B batch, H W pixels (multiples of the patch size), h w patch grid, R storage tokens, D embed_dim.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinov3_ref.models import DinoVisionTransformer

# Any traced size will do: nothing of it stays in the graph. Off-square and with a batch of two, so that
# a dimension that did get baked in would show.
TRACED_BATCH, TRACED_GRID = 2, (4, 6)


class TokenOutputs(nn.Module):
    """One image batch in, named token outputs out: `cls`, `storage`, `patch`, `layer_<i>`.

    pixels [B,3,H,W] -> cls [B,D], storage [B,R,D] (only where R > 0), patch [B,h,w,D], and for each
    chosen block the normed patch map [B,h,w,D].
    """

    def __init__(self, model: DinoVisionTransformer, layers: Sequence[int] = ()) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)
        prefix = ["cls", "storage"] if model.n_storage_tokens else ["cls"]
        self.output_names = (*prefix, "patch", *(f"layer_{index}" for index in self.layers))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        tokens, (h, w) = self.model.prepare_tokens_with_masks(pixels)
        maps = []
        for index, after_block in enumerate(self.model.run_blocks([tokens], [(h, w)])):
            tokens = after_block[0]
            if index in self.layers:
                maps.append(self.model.norm_tokens(tokens)[1].unflatten(1, (h, w)))
        prefix, patches = self.model.norm_tokens(tokens)
        storage = (prefix[:, 1:],) if self.model.n_storage_tokens else ()
        return (prefix[:, 0], *storage, patches.unflatten(1, (h, w)), *maps)


def trace(module: TokenOutputs) -> ExportedProgram:
    """Exported program of a meta-device module; batch and patch grid stay symbolic."""
    model = module.model
    p, (h, w) = model.patch_size, TRACED_GRID
    pixels = torch.empty(TRACED_BATCH, model.patch_embed.in_chans, h * p, w * p, device="meta")
    sizes = {0: Dim("batch"), 2: p * Dim("rows"), 3: p * Dim("columns")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, none of them about the model
        return torch.export.export(module, (pixels,), dynamic_shapes=(sizes,), strict=False)
