"""Multi-head self-attention with rotary position embedding (docs/spec.md 2.3-2.6; arXiv:1706.03762, eq. 1).

Shapes: B batch, N tokens (prefix + patches), P patches, D embed_dim, h heads, d head_dim.
RoPE rotates the last P tokens and leaves the prefix (CLS and storage tokens) unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def join_tokens(x_list: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """List of [B_i, N_i, D] -> ([sum of B_i·N_i, D], [(B_i, N_i), …]) (docs/spec.md 2.5, 2.8).

    In training, global and local crops go through the model together: one large product instead of several.
    """
    sizes = [(x.shape[0], x.shape[1]) for x in x_list]
    return torch.cat([x.flatten(0, 1) for x in x_list]), sizes


def split_tokens(flat: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Inverse of `join_tokens`: [sum of B_i·N_i, D] -> list of [B_i, N_i, D]."""
    parts = flat.split([batch * tokens for batch, tokens in sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]


class TokenwiseListMixin(nn.Module):
    """Adds `forward_list` to a module that works on each token separately."""

    def forward_list(self, x_list: Sequence[Tensor]) -> list[Tensor]:
        flat, sizes = join_tokens(x_list)
        return split_tokens(self(flat), sizes)


Rope = tuple[Tensor, Tensor]  # (sin, cos), each [P, d], [h, P, d] or [B, h, P, d]


def rope_rotate_half(x: Tensor) -> Tensor:
    """[..., d]: (a, b) -> (-b, a), where a and b are the two halves of the last dimension."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def rope_apply(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate pairs (k, k + d/2) of x [..., P, d]: x·cos + rotate_half(x)·sin; sin and cos [..., P, d]."""
    return x * cos + rope_rotate_half(x) * sin


class LinearKMaskedBias(nn.Linear):
    """The qkv projection with a masked bias, x [..., D] -> [..., 3D] (docs/spec.md 2.4).

    Output = x Wᵀ + bias · bias_mask. The mask is a buffer because released files contain it; there mask and
    bias are all zeros (docs/spec.md 0, fact 2). A new layer masks only the third of k.
    """

    bias_mask: Tensor

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: torch.device | str | None = None
    ) -> None:
        if out_features % 3:
            raise ValueError(f"out_features {out_features} is not a multiple of 3; q, k and v share it")
        super().__init__(in_features, out_features, bias=bias, device=device)
        if self.bias is not None:
            self.register_buffer("bias_mask", torch.empty_like(self.bias), persistent=True)
            self.reset_mask()

    def reset_mask(self) -> None:
        """Set the mask to 1 for q and v, 0 for k."""
        if self.bias is not None:
            third = self.out_features // 3
            self.bias_mask.fill_(1)
            self.bias_mask[third : 2 * third].zero_()

    def effective_bias(self) -> Tensor | None:
        """bias · bias_mask, [3D]; None without a bias."""
        return None if self.bias is None else self.bias * self.bias_mask.to(self.bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.effective_bias())


class SelfAttention(nn.Module):
    """Multi-head self-attention, x [B,N,D] -> [B,N,D]. Subclasses override `compute_attention`."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        mask_k_bias: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5  # the default of scaled_dot_product_attention
        linear = LinearKMaskedBias if mask_k_bias else nn.Linear
        self.qkv = linear(dim, dim * 3, bias=qkv_bias, device=device)
        self.attn_drop = nn.Dropout(attn_drop)  # never applied, as in the official code
        self.proj = nn.Linear(dim, dim, bias=proj_bias, device=device)
        self.proj_drop = nn.Dropout(proj_drop)

    def apply_rope(self, q: Tensor, k: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """Rotate the last P tokens of q and k [B,h,N,d], computed in the table's dtype, returned in theirs.

        Raises ValueError if the table has more positions than there are tokens.
        """
        sin, cos = rope
        prefix = q.shape[-2] - sin.shape[-2]
        if prefix < 0:
            raise ValueError(f"RoPE table holds {sin.shape[-2]} positions, the input {q.shape[-2]} tokens")

        def rotate(x: Tensor) -> Tensor:
            wide = x.to(sin.dtype)
            head, patches = wide[..., :prefix, :], wide[..., prefix:, :]
            return torch.cat((head, rope_apply(patches, sin, cos)), dim=-2).to(x.dtype)

        return rotate(q), rotate(k)

    def compute_attention(
        self, qkv: Tensor, attn_bias: Tensor | None = None, rope: Rope | None = None
    ) -> Tensor:
        """qkv [B,N,3D] -> attended values [B,N,D], before the output projection."""
        if attn_bias is not None:
            raise ValueError("attn_bias was given; DINOv3's attention has none, pass None")
        q, k, v = self._heads(qkv, rope)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _masked_attention(self, qkv: Tensor, visible: Tensor, rope: Rope | None) -> Tensor:
        """qkv [B,N,3D] -> [B,N,D], as `compute_attention`; `visible` [B,Q,N] as in `forward`."""
        q, k, v = self._heads(qkv, rope)
        seen = F.pad(visible, (0, 0, 0, qkv.shape[1] - visible.shape[1]), value=True)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen.unsqueeze(1))
        return attended.transpose(1, 2).flatten(2)

    def _heads(self, qkv: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [B,N,3D] -> rotated q, rotated k, and v, each [B,h,N,d]."""
        B, N, _ = qkv.shape
        D = self.qkv.in_features
        q, k, v = qkv.reshape(B, N, 3, self.num_heads, D // self.num_heads).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if rope is not None:
            q, k = self.apply_rope(q, k, rope)
        return q, k, v

    def attention_weights(self, x: Tensor, rope: Rope | None = None, queries: int | None = None) -> Tensor:
        """Attention weights softmax(q kᵀ / √d) of x [B,N,D]: [B,h,N,N] (docs/development/seed.md S57).

        With `queries`, only the rows of the first `queries` tokens: [B,h,queries,N]; 1 gives those of CLS.
        """
        q, k, _ = self._heads(self.qkv(x), rope)
        return torch.softmax((q[:, :, :queries] * self.scale) @ k.transpose(-2, -1), dim=-1)

    def forward(
        self,
        x: Tensor,
        attn_bias: Tensor | None = None,
        rope: Rope | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """`visible`, bool [B,Q,N]: the tokens that each of the first Q tokens sees; the others see all."""
        if visible is None:
            attended = self.compute_attention(qkv=self.qkv(x), attn_bias=attn_bias, rope=rope)
        else:
            attended = self._masked_attention(self.qkv(x), visible, rope)
        return self.proj_drop(self.proj(attended))

    def forward_list(
        self,
        x_list: Sequence[Tensor],
        attn_bias: Tensor | None = None,
        rope_list: Sequence[Rope | None] | None = None,
    ) -> list[Tensor]:
        """Attention within each entry [B_i,N_i,D], with one qkv and one output product for all of them.

        `proj_drop` is not applied here, as in the official code. Raises ValueError for lists of unequal
        length.
        """
        ropes = [None] * len(x_list) if rope_list is None else rope_list
        if len(ropes) != len(x_list):
            raise ValueError(f"{len(x_list)} inputs with {len(ropes)} RoPE tables; wanted one each")
        flat, sizes = join_tokens(x_list)
        attended = [
            self.compute_attention(qkv=qkv, attn_bias=attn_bias, rope=rope)
            for qkv, rope in zip(split_tokens(self.qkv(flat), sizes), ropes, strict=True)
        ]
        flat, sizes = join_tokens(attended)
        return split_tokens(self.proj(flat), sizes)


class CausalSelfAttention(nn.Module):
    """Attention of the text tower, x [B,N,D] -> [B,N,D]: optionally causal, no RoPE (docs/spec.md 2.6)."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def init_weights(
        self, init_attn_std: float | None = None, init_proj_std: float | None = None, factor: float = 1.0
    ) -> None:
        """Initialise qkv with std D^-0.5, proj with that std · factor, biases with 0."""
        attn_std = init_attn_std or self.dim**-0.5
        nn.init.normal_(self.qkv.weight, std=attn_std)
        nn.init.normal_(self.proj.weight, std=init_proj_std or attn_std * factor)
        for bias in (self.qkv.bias, self.proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, x: Tensor, is_causal: bool = True) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, D // self.num_heads).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        x = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.attn_drop if self.training else 0.0, is_causal=is_causal
        )
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(B, N, D)))
