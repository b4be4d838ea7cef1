"""The detector: image batch -> class logits, boxes and the numbers of the chosen positions.

Source: DEIMv2 (arXiv:2509.20787); configuration, key names and behaviour of transformers'
`Deimv2ForObjectDetection`.

Shapes: B batch, H W pixels, Q queries, C classes, h w map.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.tasks.deimv2.adapter import FeaturePyramid
from dinov3_ref.tasks.deimv2.config import DeimV2Config
from dinov3_ref.tasks.deimv2.decoder import Decoder
from dinov3_ref.tasks.deimv2.encoder import HybridEncoder
from dinov3_ref.tasks.deimv2.layers import Conv
from dinov3_ref.tasks.deimv2.queries import QuerySelection
from dinov3_ref.tasks.task_model import TaskModel

THRESHOLD = 0.5  # smallest score in transformers' post_process_object_detection


class DeimV2(TaskModel):
    """pixels [B,3,H,W] -> logits [B,Q,C], boxes (cx, cy, w, h) as shares [B,Q,4], positions [B,Q].

    Queries are in the order of their score at selection. `positions` tells which place of the image a query
    came from (`QuerySelection`), so that two runs can be compared query by query.
    """

    kind: ClassVar[str] = "deimv2"
    task = "detect"
    backbone: DinoVisionTransformer

    def __init__(self, backbone: DinoVisionTransformer, config: DeimV2Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.classes = config.classes
        self.outputs = {
            "logits": ("batch", config.queries, len(config.classes)),
            "boxes": ("batch", config.queries, 4),
            "positions": ("batch", config.queries),
        }
        # a square of P patches has 4P + P + P/4 places, one or more for each query
        self.least_side = backbone.patch_size * math.ceil(math.sqrt(config.queries / 5))
        self.settings: dict[str, Any] = {"threshold": THRESHOLD, "least_side": self.least_side}
        self.conv_encoder = FeaturePyramid(backbone.embed_dim, config)
        self.encoder = HybridEncoder(config)
        self.decoder_input_proj = nn.ModuleList(self._input(level) for level in range(config.maps))
        self.selection = QuerySelection(config)
        self.decoder = Decoder(config)

    def _input(self, level: int) -> nn.Module:
        """To the decoder's width; levels that the encoder does not have are made from its coarsest."""
        config = self.config
        channels = config.decoder_inputs[-1]
        if channels == config.width:
            return nn.Identity()
        if level < len(config.decoder_inputs):
            return Conv(channels, config.width)
        return Conv(channels, config.width, 3, 2)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.encoder(self.conv_encoder(pixels, self._features(pixels)))
        sources = [*encoded, *[encoded[-1]] * (self.config.maps - len(encoded))]
        maps = [project(x) for project, x in zip(self.decoder_input_proj, sources, strict=True)]
        queries, boxes, positions = self.selection(maps)
        logits, boxes = self.decoder(queries, boxes, maps)
        return logits, boxes, positions

    def _features(self, pixels: Tensor) -> list[Tensor]:
        """Patch maps [B,D,h,w] of the chosen blocks, normed or not."""
        blocks, norms = self.config.blocks, self.config.norms
        bare = self.backbone.get_intermediate_layers(pixels, n=blocks, norm=False)
        p = self.backbone.patch_size
        grid = (pixels.shape[2] // p, pixels.shape[3] // p)
        normed = [
            self.backbone.norm_tokens(x, x.shape[1])[1] if norm else x
            for x, norm in zip(bare, norms, strict=True)
        ]
        return [x.transpose(1, 2).unflatten(2, grid) for x in normed]
