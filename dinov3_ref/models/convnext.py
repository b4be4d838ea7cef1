"""DINOv3 ConvNeXt.

Source: Liu et al., arXiv:2201.03545; distilled as in arXiv:2508.10104; docs/spec.md 1.4, 2.19.

Four stages of convolutional blocks, with downsampling before each. There is no class token: the mean of the
last stage's map replaces it, and goes through the final norm together with the patches.

Shapes: B batch, C channels of a stage, H W pixels, h w feature map of a stage (H/4, H/8, H/16, H/32), P = h*w
of the last stage, D = dims[-1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.models.config import DOWNSAMPLING, STAGES, STEM_STRIDE
from dinov3_ref.models.list_forward import Features, ListForward, check_masks, chosen_indices
from dinov3_ref.models.released import CONVNEXTS

EPS = 1e-6


class LayerNorm(nn.LayerNorm):
    """LayerNorm over channels: the last axis of [...,C], or with "channels_first" axis 1 of [B,C,h,w]."""

    def __init__(
        self,
        normalized_shape: int,
        eps: float = EPS,
        data_format: Literal["channels_last", "channels_first"] = "channels_last",
    ) -> None:
        super().__init__(normalized_shape, eps=eps)
        self.data_format = data_format

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return super().forward(x)
        centred = x - x.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        normed = centred / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class DropPath(nn.Module):
    """Drop whole images from a residual branch in training; scale the others by 1/keep (arXiv:1603.09382)."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        keep = 1.0 - self.drop_prob
        kept = torch.floor(keep + torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device))
        return x / keep * kept.to(x.dtype)


class Block(nn.Module):
    """x [B,C,h,w] -> x + gamma · pwconv2(GELU(pwconv1(norm(dwconv(x))))); [B,h,w,C] from norm to gamma."""

    def __init__(self, dim: int, drop_path: float = 0.0, layer_scale_init_value: float = 1e-6) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.layer_scale_init_value = layer_scale_init_value
        self.gamma = nn.Parameter(torch.empty(dim)) if layer_scale_init_value > 0 else None
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.dwconv(x).permute(0, 2, 3, 1)
        branch = self.pwconv2(self.act(self.pwconv1(self.norm(branch))))
        if self.gamma is not None:
            branch = self.gamma * branch
        return x + self.drop_path(branch.permute(0, 3, 1, 2))


class ConvNeXt(ListForward):
    """DINOv3 ConvNeXt. Weights are initialised at construction, except on the meta device.

    `patch_size`: resize the maps of `get_intermediate_layers` to H/patch_size x W/patch_size, like a ViT's;
    None does not resize them. Raises `ConfigError` for a combination no model can have.
    """

    def __init__(
        self,
        in_chans: int = 3,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        patch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = self.num_features = dims[-1]
        self.embed_dims = list(dims)
        self.in_chans = in_chans
        self.n_blocks = STAGES
        self.n_storage_tokens = 0
        self.patch_size = patch_size
        self.input_pad_size = STEM_STRIDE  # the official evaluation pads inputs to a multiple of it
        with torch.device(device) if device is not None else nullcontext():
            rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
            starts = accumulate(depths, initial=0)
            stem, downsamplers = _stem(in_chans, dims[0]), map(_downsampler, dims, dims[1:])
            self.downsample_layers = nn.ModuleList([stem, *downsamplers])
            self.stages = nn.ModuleList(
                nn.Sequential(
                    *(Block(dim, rate, layer_scale_init_value) for rate in rates[start : start + depth])
                )
                for dim, depth, start in zip(dims, depths, starts, strict=False)
            )
            self.norm = nn.LayerNorm(dims[-1], eps=EPS)
            # only the last stage was trained with a norm; `norm` is in two places, as in official files
            self.norms = nn.ModuleList([*(nn.Identity() for _ in range(STAGES - 1)), self.norm])
            self.head = nn.Identity()
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise every parameter (docs/spec.md 2.19)."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Block) and module.gamma is not None:
                nn.init.constant_(module.gamma, module.layer_scale_init_value)

    def run_stages(self, x: Tensor) -> list[Tensor]:
        """Image [B,C,H,W] -> the map [B,C,h,w] after each stage."""
        maps = []
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
            maps.append(x)
        return maps

    def channels_last_maps(self, x: Tensor) -> list[Tensor]:
        """Image [B,C,H,W] -> the map [B,h,w,C] after each stage."""
        return [x_BChw.permute(0, 2, 3, 1) for x_BChw in self.run_stages(x)]

    def norm_tokens(self, x_BCP: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """A flattened map [B,C,P] -> its mean [B,1,C] and its patches [B,P,C], both normed by `norm`."""
        x_BPC = x_BCP.transpose(1, 2)
        normed = norm(torch.cat([x_BPC.mean(1, keepdim=True), x_BPC], dim=1))
        return normed[:, :1], normed[:, 1:]

    def forward_features_list(
        self, x_list: Sequence[Tensor], masks_list: Sequence[Tensor | None]
    ) -> list[Features]:
        """One dict of features per image batch [B,C,H,W]; sizes may differ. Masks are returned and not used.

        Keys are those of a ViT: `x_norm_clstoken` [B,D], `x_storage_tokens` [B,0,D], `x_norm_patchtokens`
        [B,P,D], `x_prenorm` [B,P,D] (patches only, without the pooled token), `masks` as given. Raises
        ValueError if the two lists differ in length.
        """
        check_masks(x_list, masks_list)
        return [self._features(x, masks) for x, masks in zip(x_list, masks_list, strict=True)]

    def _features(self, x: Tensor, masks: Tensor | None) -> Features:
        x_BDP = self.run_stages(x)[-1].flatten(2)
        pooled, patches = self.norm_tokens(x_BDP, self.norm)
        return {
            "x_norm_clstoken": pooled[:, 0],
            "x_storage_tokens": pooled[:, 1:],
            "x_norm_patchtokens": patches,
            "x_prenorm": x_BDP.transpose(1, 2),
            "masks": masks,
        }

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Outputs of the last `n` stages, or of the stages with the given indices, in ascending order.

        Each entry is patches [B,hw,C] ([B,C,h,w] with `reshape`), or (patches, pooled [B,C]). Stages differ
        in C and, without `patch_size`, in h and w; only the last one is normed. Raises ValueError for a stage
        that does not exist.
        """
        results: list[Any] = []
        maps = self.run_stages(x)
        for index in chosen_indices(n, STAGES, "stages"):
            patches = pooled = maps[index]
            if self.patch_size is not None:
                size = (x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)
                patches = F.interpolate(patches, size, mode="bilinear", antialias=True)
            apply = self.norms[index] if norm else nn.Identity()
            tokens = apply(patches.flatten(2).transpose(1, 2))
            if reshape:
                tokens = tokens.transpose(1, 2).unflatten(2, patches.shape[-2:]).contiguous()
            results.append((tokens, apply(pooled.mean((-2, -1)))) if return_class_token else tokens)
        return tuple(results)


def _stem(in_chans: int, dim: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_chans, dim, kernel_size=STEM_STRIDE, stride=STEM_STRIDE),
        LayerNorm(dim, data_format="channels_first"),
    )


def _downsampler(before: int, dim: int) -> nn.Module:
    return nn.Sequential(
        LayerNorm(before, data_format="channels_first"),
        nn.Conv2d(before, dim, kernel_size=DOWNSAMPLING, stride=DOWNSAMPLING),
    )


def _constructor(name: str) -> Callable[..., ConvNeXt]:
    """A `convnext_*` function: sets the dimensions, leaves the rest at the class defaults."""
    shape = {"depths": CONVNEXTS[name].depths, "dims": CONVNEXTS[name].dims}

    def build(**kwargs: Any) -> ConvNeXt:
        return ConvNeXt(**(shape | kwargs))

    build.__name__ = build.__qualname__ = name
    sizes = ", ".join(f"{size} {list(values)}" for size, values in shape.items())
    build.__doc__ = f"{name}: {sizes}; class defaults otherwise."
    return build


convnext_tiny = _constructor("convnext_tiny")
convnext_small = _constructor("convnext_small")
convnext_base = _constructor("convnext_base")
convnext_large = _constructor("convnext_large")
