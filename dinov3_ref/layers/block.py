"""Pre-norm transformer block with batch-subset stochastic depth (docs/spec.md 2.8, 2.9).

Shapes: B batch, N tokens, D embed_dim. A list holds crops of different sizes, [B_i, N_i, D].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.layers.attention import CausalSelfAttention, Rope, SelfAttention
from dinov3_ref.layers.ffn_layers import Mlp
from dinov3_ref.layers.layer_scale import LayerScale

Indices = Tensor  # [s] positions in a batch


class SelfAttentionBlock(nn.Module):
    """y = x + ls1(attn(norm1(x))); z = y + ls2(mlp(norm2(y))).

    In training with `drop_path` r > 0 each branch runs on a random subset of s = max(int(B·(1-r)), 1) images,
    drawn for each branch and list entry, and its result is scaled by B/s. This is not per-sample Bernoulli
    drop path, and every block has the same rate (docs/spec.md 0, fact 9).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_ratio: float = 4.0,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        ffn_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        attn_class: Callable[..., nn.Module] = SelfAttention,
        ffn_layer: Callable[..., nn.Module] = Mlp,
        mask_k_bias: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = attn_class(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            proj_bias=proj_bias,
            attn_drop=attn_drop,
            proj_drop=drop,
            mask_k_bias=mask_k_bias,
            device=device,
        )
        self.ls1 = _layer_scale(dim, init_values, device)
        self.norm2 = norm_layer(dim)
        self.mlp = ffn_layer(
            in_features=dim,
            hidden_features=int(dim * ffn_ratio),
            act_layer=act_layer,
            drop=drop,
            bias=ffn_bias,
            device=device,
        )
        self.ls2 = _layer_scale(dim, init_values, device)
        self.sample_drop_ratio = drop_path

    def forward(
        self,
        x_or_x_list: Tensor | Sequence[Tensor],
        rope_or_rope_list: Rope | Sequence[Rope | None] | None = None,
        visible: Tensor | None = None,
    ) -> Any:
        """[B,N,D] -> [B,N,D], or a list of them -> a list. Raises TypeError for anything else.

        visible: mask of attention as in `SelfAttention.forward`, for one tensor at inference.
        """
        if isinstance(x_or_x_list, Tensor) and visible is not None:
            x = x_or_x_list
            x = x + self.ls1(self.attn(self.norm1(x), rope=rope_or_rope_list, visible=visible))
            return x + self.ls2(self.mlp(self.norm2(x)))
        if isinstance(x_or_x_list, Tensor):
            return self._forward_list([x_or_x_list], [rope_or_rope_list])[0]  # type: ignore[list-item]
        if isinstance(x_or_x_list, (list, tuple)):
            ropes = rope_or_rope_list or [None] * len(x_or_x_list)
            return self._forward_list(list(x_or_x_list), list(ropes))  # type: ignore[arg-type]
        raise TypeError(
            f"block input is a {type(x_or_x_list).__name__}; wanted a Tensor or a list of Tensors"
        )

    def _forward_list(self, x_list: list[Tensor], ropes: list[Rope | None]) -> list[Tensor]:
        if self.training and self.sample_drop_ratio > 0.0:
            return self._forward_with_drop_path(x_list, ropes)
        return [self._forward_one(x, rope) for x, rope in zip(x_list, ropes, strict=True)]

    def _forward_one(self, x: Tensor, rope: Rope | None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope=rope))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def _forward_with_drop_path(self, x_list: list[Tensor], ropes: list[Rope | None]) -> list[Tensor]:
        rows = [_draw_subset(x, self.sample_drop_ratio) for x in x_list]
        subsets = [self.norm1(x[i]) for x, i in zip(x_list, rows, strict=True)]
        sub_ropes = [_select_rope(rope, i) for rope, i in zip(ropes, rows, strict=True)]
        branches = _run_on_list(self.attn, subsets, rope_list=sub_ropes)
        x_list = [_add_rows(x, i, self.ls1(y)) for x, i, y in zip(x_list, rows, branches, strict=True)]

        rows = [_draw_subset(x, self.sample_drop_ratio) for x in x_list]
        subsets = [self.norm2(x[i]) for x, i in zip(x_list, rows, strict=True)]
        branches = _run_on_list(self.mlp, subsets)
        return [_add_rows(x, i, self.ls2(y)) for x, i, y in zip(x_list, rows, branches, strict=True)]


def _layer_scale(dim: int, init_values: float | None, device: torch.device | str | None) -> nn.Module:
    return LayerScale(dim, init_values=init_values, device=device) if init_values else nn.Identity()


def _draw_subset(x: Tensor, drop_ratio: float) -> Indices:
    """Random positions [s] in the batch of x [B,N,D]."""
    batch = x.shape[0]
    kept = max(int(batch * (1 - drop_ratio)), 1)
    return torch.randperm(batch, device=x.device)[:kept]


def _add_rows(x: Tensor, rows: Indices, branch: Tensor) -> Tensor:
    """x [B,N,D] with branch [s,N,D] · B/s added at `rows`."""
    return torch.index_add(x, 0, rows, branch.to(x.dtype), alpha=x.shape[0] / rows.shape[0])


def _select_rope(rope: Rope | None, rows: Indices) -> Rope | None:
    """The part of a RoPE table for `rows`, if it has a batch dimension; other tables are shared."""
    if rope is None or rope[0].dim() != 4:
        return rope
    sin, cos = rope
    return sin[rows], cos[rows]


def _run_on_list(
    module: nn.Module, x_list: list[Tensor], rope_list: list[Rope | None] | None = None
) -> list[Tensor]:
    """One call of `forward_list` if the module has it, else one call per entry.

    A user's own layers may lack `forward_list` (docs/development/seed.md S38).
    """
    forward_list: Callable[..., list[Tensor]] | None = getattr(module, "forward_list", None)
    if forward_list is not None:
        return forward_list(x_list) if rope_list is None else forward_list(x_list, rope_list=rope_list)
    if rope_list is None:
        return [module(x) for x in x_list]
    return [module(x, rope=rope) for x, rope in zip(x_list, rope_list, strict=True)]


class CausalSelfAttentionBlock(nn.Module):
    """Block of the text tower, x [B,N,D] -> [B,N,D]: causal attention, MLP, LayerScale, no RoPE.

    Source: docs/spec.md 2.9.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_ratio: float = 4.0,
        ls_init_value: float | None = None,
        is_causal: bool = True,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout_prob: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.is_causal = is_causal
        self.ls1 = _layer_scale(dim, ls_init_value, None)
        self.attention_norm = norm_layer(dim)
        self.attention = CausalSelfAttention(dim, num_heads, attn_drop=dropout_prob, proj_drop=dropout_prob)
        self.ffn_norm = norm_layer(dim)
        self.feed_forward = Mlp(dim, int(dim * ffn_ratio), drop=dropout_prob, act_layer=act_layer)
        self.ls2 = _layer_scale(dim, ls_init_value, None)

    def init_weights(
        self,
        init_attn_std: float | None = None,
        init_proj_std: float | None = None,
        init_fc_std: float | None = None,
        factor: float = 1.0,
    ) -> None:
        """Initialise with std D^-0.5 (attention), that · factor (projection, fc2), (2D)^-0.5 (fc1)."""
        attn_std = init_attn_std or self.dim**-0.5
        proj_std = init_proj_std or attn_std * factor
        self.attention.init_weights(attn_std, proj_std, factor)
        nn.init.normal_(self.feed_forward.fc1.weight, std=init_fc_std or (2 * self.dim) ** -0.5)
        nn.init.normal_(self.feed_forward.fc2.weight, std=proj_std)
        for norm in (self.attention_norm, self.ffn_norm):
            norm.reset_parameters()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attention(self.attention_norm(x), self.is_causal))
        return x + self.ls2(self.feed_forward(self.ffn_norm(x)))
