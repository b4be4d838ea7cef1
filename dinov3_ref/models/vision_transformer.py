"""The DINOv3 vision transformer (arXiv:2508.10104; docs/spec.md 1.2, 2.13-2.17).

Shapes: B batch, C channels, H W pixels, h w patch grid, P = h*w patches, R storage tokens, E extra tokens of
a user's subclass, D embed_dim. Token order: CLS, storage, extra, patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from dinov3_ref.errors import ConfigError
from dinov3_ref.layers.absolute_position_embedding import add_positions, makes_rope_table
from dinov3_ref.layers.attention import LinearKMaskedBias, Rope, SelfAttention
from dinov3_ref.layers.block import SelfAttentionBlock
from dinov3_ref.layers.ffn_layers import Mlp, SwiGLUFFN
from dinov3_ref.layers.layer_scale import LayerScale
from dinov3_ref.layers.patch_embed import PatchEmbed
from dinov3_ref.layers.rms_norm import RMSNorm
from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding
from dinov3_ref.models.adopt import adopt_details, warn_of_gaps
from dinov3_ref.models.list_forward import Features, ListForward, check_masks, chosen_indices
from dinov3_ref.models.released import ARCHITECTURES

# Registries of names for the constructor; users may add to them (docs/development/seed.md S38).
ffn_layer_dict: dict[str, Callable[..., nn.Module]] = {
    "mlp": Mlp,
    "swiglu": SwiGLUFFN,
    "swiglu32": partial(SwiGLUFFN, align_to=32),
    "swiglu64": partial(SwiGLUFFN, align_to=64),
    "swiglu128": partial(SwiGLUFFN, align_to=128),
}
norm_layer_dict: dict[str, Callable[[int], nn.Module]] = {
    "layernorm": partial(nn.LayerNorm, eps=1e-6),
    "layernormbf16": partial(nn.LayerNorm, eps=1e-5),  # every released ViT
    "rmsnorm": RMSNorm,
}
dtype_dict: dict[str, torch.dtype] = {
    "fp64": torch.float64,  # for measuring the error of the others
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def _lookup(registry: dict[str, Any], name: str, option: str) -> Any:
    if name not in registry:
        raise ConfigError(f"{option} {name!r} is not registered; known: {', '.join(registry)}")
    return registry[name]


class DinoVisionTransformer(ListForward):
    """DINOv3 ViT. Defaults are those of the official class; released models differ (`models/released.py`).

    Weights are initialised at construction. Raises `ConfigError` for an
    unregistered layer name and ValueError for dimensions that RoPE does not support.

    A subclass may insert extra tokens before the patches in `prepare_tokens_with_masks`
    (docs/development/seed.md S40); they are found by their position and kept apart from the patches.
    `rope_embed` may also be None or a module that adds positions to the patches (S39).
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        pos_embed_rope_base: float | None = 100.0,
        pos_embed_rope_min_period: float | None = None,
        pos_embed_rope_max_period: float | None = None,
        pos_embed_rope_normalize_coords: Literal["separate", "max", "min"] = "separate",
        pos_embed_rope_shift_coords: float | None = None,
        pos_embed_rope_jitter_coords: float | None = None,
        pos_embed_rope_rescale_coords: float | None = None,
        pos_embed_rope_dtype: str = "bf16",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        ffn_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        layerscale_init: float | None = None,
        norm_layer: str = "layernorm",
        ffn_layer: str = "mlp",
        ffn_bias: bool = True,
        proj_bias: bool = True,
        n_storage_tokens: int = 0,
        mask_k_bias: bool = False,
        untie_cls_and_patch_norms: bool = False,
        untie_global_and_local_cls_norm: bool = False,
        attn_class: Callable[..., nn.Module] = SelfAttention,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        norm = _lookup(norm_layer_dict, norm_layer, "norm_layer")
        rope_dtype = _lookup(dtype_dict, pos_embed_rope_dtype, "pos_embed_rope_dtype")
        self.embed_dim = self.num_features = embed_dim
        self.n_blocks = depth
        self.num_heads = num_heads
        self.patch_size = patch_size
        self.n_storage_tokens = n_storage_tokens
        self.untie_cls_and_patch_norms = untie_cls_and_patch_norms
        self.untie_global_and_local_cls_norm = untie_global_and_local_cls_norm
        make_block = partial(
            SelfAttentionBlock,
            embed_dim,
            num_heads,
            ffn_ratio=ffn_ratio,
            qkv_bias=qkv_bias,
            proj_bias=proj_bias,
            ffn_bias=ffn_bias,
            init_values=layerscale_init,
            drop_path=drop_path_rate,
            norm_layer=norm,
            attn_class=attn_class,
            ffn_layer=_lookup(ffn_layer_dict, ffn_layer, "ffn_layer"),
            mask_k_bias=mask_k_bias,
        )
        with torch.device(device) if device is not None else nullcontext():
            self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim, flatten_embedding=False)
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
            if n_storage_tokens > 0:
                self.storage_tokens = nn.Parameter(torch.empty(1, n_storage_tokens, embed_dim))
            self.rope_embed = RopePositionEmbedding(
                embed_dim,
                num_heads=num_heads,
                base=pos_embed_rope_base,
                min_period=pos_embed_rope_min_period,
                max_period=pos_embed_rope_max_period,
                normalize_coords=pos_embed_rope_normalize_coords,
                shift_coords=pos_embed_rope_shift_coords,
                jitter_coords=pos_embed_rope_jitter_coords,
                rescale_coords=pos_embed_rope_rescale_coords,
                dtype=rope_dtype,
            )
            self.blocks = nn.ModuleList(make_block() for _ in range(depth))
            self.norm = norm(embed_dim)
            self.cls_norm = norm(embed_dim) if untie_cls_and_patch_norms else None
            self.local_cls_norm = norm(embed_dim) if untie_global_and_local_cls_norm else None
            self.head = nn.Identity()
            self.mask_token = nn.Parameter(torch.empty(1, embed_dim))
        self.init_weights()

    # ---- weights ------------------------------------------------------------------------------

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise every parameter (docs/spec.md 2.17), but not a `rope_embed` that is not RoPE."""
        if isinstance(self.rope_embed, RopePositionEmbedding):
            self.rope_embed.reset_parameters()
        nn.init.normal_(self.cls_token, std=0.02)
        if self.n_storage_tokens > 0:
            nn.init.normal_(self.storage_tokens, std=0.02)
        nn.init.zeros_(self.mask_token)
        for module in self.modules():
            _init_module(module)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """As torch's, but a mismatch is never silent (docs/spec.md 8.1).

        If a complete state dict of this width and depth has more parts than the model (a released file in a
        model with class defaults), the model gets its storage tokens, LayerScale, masked k bias and LayerNorm
        eps, with a `CheckpointWarning`. With `strict=False`, a warning lists missing and unexpected tensors.
        """
        adopt_details(self, state_dict)
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        warn_of_gaps(type(self).__name__, result.missing_keys, result.unexpected_keys)
        return result

    # ---- forward ------------------------------------------------------------------------------

    def prepare_tokens_with_masks(
        self, x: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Image [B,C,H,W], bool masks [B,P] or None -> tokens [B,1+R+P,D] and the grid (h, w).

        A subclass may insert extra tokens before the patches; RoPE does not rotate them.
        """
        x_BhwD = self.patch_embed(x)
        B, h, w, _ = x_BhwD.shape
        x_BPD = x_BhwD.flatten(1, 2)
        cls_token: Tensor = self.cls_token
        if masks is not None:
            x_BPD = torch.where(masks.unsqueeze(-1), self.mask_token.to(x_BPD.dtype).unsqueeze(0), x_BPD)
        elif self.training:
            # Distributed training needs every parameter in the graph of every step; this adds exactly zero.
            cls_token = cls_token + 0 * self.mask_token
        if self.rope_embed is not None and not makes_rope_table(self.rope_embed):
            x_BPD = add_positions(self.rope_embed, x_BPD)
        prefix = [cls_token.expand(B, -1, -1)]
        if self.n_storage_tokens > 0:
            prefix.append(self.storage_tokens.expand(B, -1, -1))
        return torch.cat([*prefix, x_BPD], dim=1), (h, w)

    def _rope_table(self, h: int, w: int) -> Rope | None:
        if self.rope_embed is None or not makes_rope_table(self.rope_embed):
            return None
        return self.rope_embed(H=h, W=w)

    def run_blocks(
        self, x_list: list[Tensor], grids: Sequence[tuple[int, int]], last: int | None = None
    ) -> Iterator[list[Tensor]]:
        """Yield the tokens [B_i,N_i,D] of all entries after each block, up to block `last`.

        In training every block draws its own RoPE augmentation (docs/spec.md 0, fact 7); otherwise all blocks
        share one table.
        """
        ropes = [self._rope_table(h, w) for h, w in grids]
        for index, block in enumerate(self.blocks):
            if self.training and index > 0:
                ropes = [self._rope_table(h, w) for h, w in grids]
            x_list = block(x_list, ropes)
            yield x_list
            if index == last:
                return

    def forward_features_list(
        self, x_list: Sequence[Tensor], masks_list: Sequence[Tensor | None]
    ) -> list[Features]:
        """One dict of features per image batch [B,C,H,W]; in training, entry 1 is the local crops.

        `x_norm_clstoken` [B,D], `x_storage_tokens` [B,R,D], `x_norm_patchtokens` [B,P,D], `x_prenorm`
        [B,1+R+E+P,D], `masks` as given; `x_extra_tokens` [B,E,D] if a subclass adds any
        (docs/development/seed.md S40). Raises ValueError if the two lists differ in length.
        """
        check_masks(x_list, masks_list)
        prepared = [self.prepare_tokens_with_masks(x, m) for x, m in zip(x_list, masks_list, strict=True)]
        tokens = [x for x, _ in prepared]
        for after_block in self.run_blocks(tokens, [grid for _, grid in prepared]):
            tokens = after_block
        return [
            self._features(x, h * w, masks_list[index], is_local=self.training and index == 1)
            for index, (x, (_, (h, w))) in enumerate(zip(tokens, prepared, strict=True))
        ]

    def norm_tokens(self, x: Tensor, patches: int, is_local: bool = False) -> tuple[Tensor, Tensor]:
        """Final norms: x [B,1+R+E+P,D] -> prefix [B,1+R+E,D], patches [B,P,D] (docs/spec.md 2.14)."""
        prefix = x.shape[1] - patches
        cls_norm = self.norm
        if self.local_cls_norm is not None and is_local:
            cls_norm = self.local_cls_norm
        elif self.cls_norm is not None:
            cls_norm = self.cls_norm
        if cls_norm is self.norm:
            normed = self.norm(x)
            return normed[:, :prefix], normed[:, prefix:]
        return cls_norm(x[:, :prefix]), self.norm(x[:, prefix:])

    def _features(self, x: Tensor, count: int, masks: Tensor | None, is_local: bool) -> Features:
        prefix, patches = self.norm_tokens(x, count, is_local)
        own = 1 + self.n_storage_tokens
        extra = {"x_extra_tokens": prefix[:, own:]} if prefix.shape[1] > own else {}
        return {
            "x_norm_clstoken": prefix[:, 0],
            "x_storage_tokens": prefix[:, 1:own],
            **extra,
            "x_norm_patchtokens": patches,
            "x_prenorm": x,
            "masks": masks,
        }

    def get_intermediate_layers(
        self,
        x: Tensor,
        *,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        return_extra_tokens: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Outputs of the last `n` blocks, or of the blocks with the given indices, in ascending order.

        Each entry is patches [B,P,D] ([B,D,h,w] with `reshape`), or a tuple of patches and what was asked
        for: cls [B,D], storage and extra tokens [B,R+E,D] (docs/development/seed.md S21). Raises ValueError
        for a block that does not exist.
        """
        wanted = chosen_indices(n, self.n_blocks, "blocks")
        tokens, (h, w) = self.prepare_tokens_with_masks(x)
        per_block = enumerate(self.run_blocks([tokens], [(h, w)], last=wanted[-1]))
        outputs = [x_list[0] for index, x_list in per_block if index in wanted]
        split = tokens.shape[1] - h * w
        results: list[Any] = []
        for out in outputs:
            prefix, patches = self.norm_tokens(out, h * w) if norm else (out[:, :split], out[:, split:])
            if reshape:
                patches = patches.transpose(1, 2).unflatten(2, (h, w)).contiguous()
            chosen = [patches]
            if return_class_token:
                chosen.append(prefix[:, 0])
            if return_extra_tokens:
                chosen.append(prefix[:, 1:])
            results.append(tuple(chosen) if len(chosen) > 1 else patches)
        return tuple(results)


def _init_module(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, LinearKMaskedBias):
            module.reset_mask()
    elif isinstance(module, (nn.LayerNorm, RMSNorm, LayerScale, PatchEmbed)):
        module.reset_parameters()


def constructor_shape(arch: str) -> dict[str, Any]:
    """What the `vit_*` function of that name sets; the rest are class defaults (docs/spec.md 1.1)."""
    dims = ("embed_dim", "depth", "num_heads", "ffn_ratio")
    ffn = "swiglu" if arch.endswith("_plus") else "mlp"
    return {**{dim: getattr(ARCHITECTURES[arch], dim) for dim in dims}, "ffn_layer": ffn}


def _constructor(name: str) -> Callable[..., DinoVisionTransformer]:
    shape = constructor_shape(name)

    def build(patch_size: int = 16, **kwargs: Any) -> DinoVisionTransformer:
        return DinoVisionTransformer(patch_size=patch_size, **(shape | kwargs))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}: {', '.join(f'{k} {v}' for k, v in shape.items())}; class defaults otherwise."
    return build


vit_small = _constructor("vit_small")
vit_small_plus = _constructor("vit_small_plus")
vit_base = _constructor("vit_base")
vit_large = _constructor("vit_large")
vit_large_plus = _constructor("vit_large_plus")
vit_so400m = _constructor("vit_so400m")
vit_huge2 = _constructor("vit_huge2")
vit_huge_plus = _constructor("vit_huge_plus")
vit_giant2 = _constructor("vit_giant2")
vit_7b = _constructor("vit_7b")
