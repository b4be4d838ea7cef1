"""What takes the place of the blocks in a copy of a library's model: the same calls, our computation.

Only blocks and RoPE are replaced. Embedding, final norm, pooling and the output types stay the library's own
code. The backbone itself is registered once in the copy, as `BACKBONE`; a part keeps it in a tuple, which
torch does not search for modules.

Shapes: B batch, C channels, H W pixels, h w patch grid or feature map, L tokens, D embed_dim.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dinodeploy.errors import ExportError
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer
from exporters.trace.channels_last import CHANNELS_FIRST, CHANNELS_LAST, ChannelsLastConvNeXt

BACKBONE = "dinov3"  # attribute of a copied model that holds our backbone


class Part(nn.Module):
    """Base of the parts: a module that reaches the backbone without registering it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._of = (backbone,)

    @property
    def vit(self) -> DinoVisionTransformer:
        assert isinstance(self._of[0], DinoVisionTransformer)
        return self._of[0]

    @property
    def convnext(self) -> ConvNeXt:
        assert isinstance(self._of[0], ConvNeXt)
        return self._of[0]


class RopeOfGrid(Part):
    """RoPE tables of a patch grid (h, w); what they look like is between this part and the blocks."""

    def table(self, h: int, w: int) -> Any:
        assert self.vit.rope_embed is not None
        return self.vit.rope_embed(H=h, W=w)


class Block(Part):
    """One ViT block: tokens [B,L,D] and the RoPE tables -> [B,L,D]."""

    def __init__(self, backbone: Backbone, index: int) -> None:
        super().__init__(backbone)
        self.index = index

    def run(self, x: Tensor, rope: Any) -> Tensor:
        made: Tensor = self.vit.blocks[self.index](x, rope)
        return made


def refuse(argument: str, value: object) -> None:
    """Raises ExportError for an argument that the exported blocks do not support."""
    if value is not None and value is not False:
        raise ExportError(f"the module calls its backbone with {argument}; the exported backbone has none")


def run_stage(backbone: ConvNeXt, index: int, x_BCHW: Tensor) -> Tensor:
    """Stage `index` of a ConvNeXt, its downsampling included: [B,C,H,W] -> [B,C',h,w]."""
    last = isinstance(backbone, ChannelsLastConvNeXt)
    x = x_BCHW.permute(CHANNELS_LAST) if last and index > 0 else x_BCHW  # its stem takes pixels as they are
    x = backbone.stages[index](backbone.downsample_layers[index](x))
    made: Tensor = x.permute(CHANNELS_FIRST) if last else x
    return made


class Stage(Part):
    """One ConvNeXt stage, its downsampling included: [B,C,H,W] -> [B,C',h,w]."""

    def __init__(self, backbone: Backbone, index: int) -> None:
        super().__init__(backbone)
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return run_stage(self.convnext, self.index, x)
