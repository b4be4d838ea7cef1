"""Trace a twin into an exported program with free batch, height and width.

Shapes: B batch, H W pixels (multiples of the patch size or the stride), h w patch grid, R storage tokens,
D embed_dim, C channels of a ConvNeXt's stage.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer, input_channels, stride_of
from exporters.channels_last import ChannelsLastConvNeXt

# Any traced size will do: nothing of it stays in the graph. Off-square and with a batch of two, so that
# a dimension that did get baked in would show.
TRACED_BATCH, TRACED_GRID = 2, (4, 6)


class TokenOutputs(nn.Module):
    """One image batch in, named token outputs out: `cls`, `storage`, `patch`, `layer_<i>`.

    pixels [B,3,H,W] -> cls [B,D], storage [B,R,D] (only where R > 0), patch [B,h,w,D], and for each
    chosen block the normed patch map [B,h,w,D]. Of a ConvNeXt, layers are stages: [B,h,w,C], each in its own
    size, and the last one alone is normed.
    """

    def __init__(self, model: Backbone, layers: Sequence[int] = ()) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)
        prefix = ["cls", "storage"] if model.n_storage_tokens else ["cls"]
        self.output_names = (*prefix, "patch", *(f"layer_{index}" for index in self.layers))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.model, ConvNeXt):
            return self._of_stages(self.model, pixels)
        return self._of_blocks(self.model, pixels)

    def _of_blocks(self, model: DinoVisionTransformer, pixels: Tensor) -> tuple[Tensor, ...]:
        tokens, (h, w) = model.prepare_tokens_with_masks(pixels)
        maps = []
        for index, after_block in enumerate(model.run_blocks([tokens], [(h, w)])):
            tokens = after_block[0]
            if index in self.layers:
                maps.append(model.norm_tokens(tokens)[1].unflatten(1, (h, w)))
        prefix, patches = model.norm_tokens(tokens)
        storage = (prefix[:, 1:],) if model.n_storage_tokens else ()
        return (prefix[:, 0], *storage, patches.unflatten(1, (h, w)), *maps)

    def _of_stages(self, model: ConvNeXt, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = model.channels_last_maps(pixels)
        last = maps[-1]
        # a chosen last stage is normed once more: two outputs may not be one tensor
        chosen = [model.norm(last) if maps[index] is last else maps[index] for index in self.layers]
        return (model.norm(last.mean((1, 2))), model.norm(last), *chosen)


def trace(module: TokenOutputs) -> ExportedProgram:
    """Exported program of a meta-device module; batch and patch grid stay symbolic."""
    model = module.model
    p, (h, w) = stride_of(model), TRACED_GRID
    pixels = torch.empty(TRACED_BATCH, input_channels(model), h * p, w * p, device="meta")
    sizes = {0: Dim("batch"), 2: p * Dim("rows"), 3: p * Dim("columns")}
    if isinstance(model, ChannelsLastConvNeXt) and model.any_size:
        sizes = {}  # the same graph (a test compares them), without minutes of arithmetic with symbols
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, none of them about the model
        return torch.export.export(
            module, (pixels,), dynamic_shapes=(sizes,) if sizes else None, strict=False
        )
