"""EoMT on DINOv3: a vision transformer that segments with queries of its own (arXiv:2503.19108).

    pixels ─> patches ─> blocks ─┬─> last `num_blocks` blocks ─> norm ─┬─> queries ─> classes, mask vectors
                        queries ─┘                                     └─> patches ─> upscale ─> pixel vectors

A mask is the product of a query's mask vector and the pixel vectors. A block whose mask is on predicts masks
from its input first, and each query sees only the patches inside its own mask (eq. 2 there).

The configuration and its effect are those of transformers' `EomtDinov3ForUniversalSegmentation`.

Shapes: B batch, H W pixels, h w patch grid, P = h*w patches, R storage tokens, Q queries, D embed_dim,
C classes, s = 2^num_upscale_blocks mask pixels per patch. Token order: queries, CLS, storage, patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.layers import Mlp, SwiGLUFFN
from dinov3_ref.layers.attention import Rope
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.tasks.task_model import TaskModel

# name in config.json -> the layer, and the function of a gated FFN
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "gelu": (nn.GELU, F.gelu),
    "silu": (nn.SiLU, F.silu),
}
UPSCALE_EPS = 1e-6  # of the norms between upscale blocks, whatever the backbone's is


@dataclass(frozen=True)
class EomtConfig:
    """Architecture of an EoMT. Raises `ConfigError` for an impossible combination.

    masked: for each of the last blocks, whether masked attention is on; its length is `num_blocks`.
    activation: of the backbone's FFN and of all layers after it.
    """

    backbone: ViTConfig
    num_classes: int
    num_queries: int = 200
    masked: tuple[bool, ...] = (False,) * 4
    num_upscale_blocks: int = 2
    activation: str = "gelu"
    image_size: int = 640  # of training

    def __post_init__(self) -> None:
        if not 1 <= self.num_blocks <= self.backbone.depth:
            raise ConfigError(
                f"num_blocks is {self.num_blocks}; wanted 1 to {self.backbone.depth}, the backbone's depth"
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"activation {self.activation!r} is unknown; wanted one of {', '.join(ACTIVATIONS)}"
            )
        least = {"num_classes": 1, "num_queries": 1, "num_upscale_blocks": 0, "image_size": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigError(f"{name} is {getattr(self, name)}; wanted at least {smallest}")

    @property
    def num_blocks(self) -> int:
        """Blocks that queries pass through."""
        return len(self.masked)


class Eomt(TaskModel):
    """Pixels [B,3,H,W] -> class logits [B,Q,C+1], the last of them "no object", and mask logits [B,Q,sh,sw].

    H and W: any multiple of the patch size.
    """

    kind: ClassVar[str] = "eomt"
    task = "panoptic"
    backbone: DinoVisionTransformer

    def __init__(
        self, config: EomtConfig, classes: Sequence[str] = (), settings: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        if classes and len(classes) != config.num_classes:
            raise ConfigError(f"{len(classes)} class names for {config.num_classes} classes; wanted one each")
        self.config = config
        self.classes = tuple(classes)
        self.settings = dict(settings or {})
        self.outputs = {
            "class_logits": ("batch", config.num_queries, config.num_classes + 1),
            "mask_logits": ("batch", config.num_queries, "mask_rows", "mask_columns"),
        }
        width = config.backbone.embed_dim
        self.backbone = DinoVisionTransformer(**config.backbone.kwargs())
        for block in self.backbone.blocks:
            _set_activation(block.get_submodule("mlp"), config.activation)
        self.queries = nn.Parameter(torch.empty(config.num_queries, width))
        self.class_head = nn.Linear(width, config.num_classes + 1)
        self.mask_head = MaskHead(width, config.activation)
        self.upscale = nn.Sequential(
            *(Upscale(width, config.activation) for _ in range(config.num_upscale_blocks))
        )
        if self.queries.device.type != "meta":
            nn.init.normal_(self.queries)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        model, config = self.backbone, self.config
        tokens, grid = model.prepare_tokens_with_masks(pixels)
        rope = model.rope_embed(H=grid[0], W=grid[1])
        first = len(model.blocks) - config.num_blocks
        for block in model.blocks[:first]:
            tokens = block(tokens, rope)
        tokens = torch.cat((self.queries.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        rope = unrotated_first(rope, config.num_queries)
        visible = None
        for block, masked in zip(model.blocks[first:], config.masked, strict=True):
            if masked:
                _, masks = self.predict(model.norm(tokens), grid)
                visible = self.visible_tokens(masks, grid)
            # transformers keeps the last mask for later blocks, even if theirs is off
            tokens = block(tokens, rope) if visible is None else block(tokens, rope, visible=visible)
        return self.predict(model.norm(tokens), grid)

    def predict(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Normed tokens [B,Q+1+R+P,D] -> class logits [B,Q,C+1], mask logits [B,Q,sh,sw]."""
        queries = tokens[:, : self.config.num_queries]
        patches = tokens[:, self.config.num_queries + 1 + self.backbone.n_storage_tokens :]
        x_BDhw = self.upscale(patches.transpose(1, 2).unflatten(2, grid))
        masks = self.mask_head(queries) @ x_BDhw.flatten(2)
        scale = 2**self.config.num_upscale_blocks
        return self.class_head(queries), masks.unflatten(2, (scale * grid[0], scale * grid[1]))

    def visible_tokens(self, masks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mask logits [B,Q,sh,sw] -> bool [B,Q,Q+1+R+P]: which tokens each query sees in a masked block.

        All but the patches whose centre is outside its mask. The mask at a centre, interpolated bilinearly,
        is the mean of the four mask pixels around it.
        """
        scale, (h, w) = 2**self.config.num_upscale_blocks, grid
        if scale > 1:
            cells = masks.unflatten(3, (w, scale)).unflatten(2, (h, scale))  # [B,Q,h,s,w,s]
            left, right = scale // 2 - 1, scale // 2
            columns = cells[..., left] + cells[..., right]
            masks = columns[:, :, :, left] + columns[:, :, :, right]
        others = self.config.num_queries + 1 + self.backbone.n_storage_tokens
        return torch.cat((masks.new_ones((*masks.shape[:2], others)), masks.flatten(2)), dim=2) > 0


class MaskHead(nn.Module):
    """Query tokens [B,Q,D] -> mask vectors [B,Q,D]: an MLP of three layers."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(width, width) for _ in range(3))
        self.act = ACTIVATIONS[activation][0]()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))


class Upscale(nn.Module):
    """[B,D,h,w] -> [B,D,2h,2w]: transposed and depthwise convolution, then LayerNorm over D."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.act = ACTIVATIONS[activation][0]()
        self.mix = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=UPSCALE_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.act(self.enlarge(x)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def unrotated_first(rope: Rope, count: int) -> Rope:
    """A RoPE table [L,d] with `count` more rows of angle zero before it: tokens that are not rotated."""
    sin, cos = rope
    more = (count, sin.shape[-1])
    return torch.cat((sin.new_zeros(more), sin)), torch.cat((cos.new_ones(more), cos))


def _set_activation(ffn: nn.Module, activation: str) -> None:
    layer, function = ACTIVATIONS[activation]
    if isinstance(ffn, SwiGLUFFN):
        ffn.gate = function
    else:
        assert isinstance(ffn, Mlp)
        ffn.act = layer()
