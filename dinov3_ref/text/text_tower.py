"""Text tower of dino.txt: a causal transformer, pooled at the end token (docs/spec.md 2.6, 2.9, 5.8).

Shapes: T texts, N tokens of each, W width, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3_ref.layers import CausalSelfAttentionBlock
from dinov3_ref.text.config import DinoTxtConfig

LAYERSCALE_INIT = 1e-5
TOKEN_STD, POSITION_STD = 0.02, 0.01  # as in CLIP (arXiv:2103.00020)


class TextTransformer(nn.Module):
    """Token ids [T,N] -> normed tokens [T,N,W]. N is at most the context length.

    Attention is causal: a token does not depend on those behind it. So ids may end at the last end token.
    """

    def __init__(self, config: DinoTxtConfig, dropout_prob: float = 0.0) -> None:
        super().__init__()
        dim = config.text_dim
        self.token_embedding = nn.Embedding(config.vocab_size, dim)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, dim))
        self.dropout = nn.Dropout(dropout_prob)
        self.blocks = nn.ModuleList(
            CausalSelfAttentionBlock(
                dim,
                config.text_heads,
                ffn_ratio=(config.text_ffn + 0.5) / dim,
                ls_init_value=LAYERSCALE_INIT if config.text_layerscale else None,
                dropout_prob=dropout_prob,
            )
            for _ in range(config.text_depth)
        )
        self.ln_final = nn.LayerNorm(dim)

    def init_weights(self) -> None:
        """Initialise as CLIP does; projections onto the residual stream get std (W · 2 depth)^-0.5."""
        nn.init.normal_(self.token_embedding.weight, std=TOKEN_STD)
        nn.init.normal_(self.positional_embedding, std=POSITION_STD)
        for block in self.blocks:
            block.init_weights(factor=(2 * len(self.blocks)) ** -0.5)  # type: ignore[operator]
        self.ln_final.reset_parameters()

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = self.positional_embedding[: token_ids.shape[1]]
        x_TNW = self.dropout(self.token_embedding(token_ids) + positions)
        for block in self.blocks:
            x_TNW = block(x_TNW)
        return self.ln_final(x_TNW)


class TextHead(nn.Module):
    """Linear projection without bias: [T,W] -> [T,E]."""

    def __init__(self, config: DinoTxtConfig) -> None:
        super().__init__()
        self.linear_projection = nn.Linear(config.text_dim, config.embed_dim, bias=False)

    def init_weights(self) -> None:
        """Initialise with std W^-0.5."""
        nn.init.normal_(self.linear_projection.weight, std=self.linear_projection.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_projection(x)


class TextTower(nn.Module):
    """Token ids [T,N] -> text features [T,E].

    The token with the largest id is taken, the first of equals: that is the end token.
    """

    def __init__(self, config: DinoTxtConfig, dropout_prob: float = 0.0) -> None:
        super().__init__()
        self.backbone = TextTransformer(config, dropout_prob)
        self.head = TextHead(config)

    def init_weights(self) -> None:
        self.backbone.init_weights()
        self.head.init_weights()

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.head(pool_at_end(self.backbone(token_ids), token_ids))


def pool_at_end(x_TNW: Tensor, ids_TN: Tensor) -> Tensor:
    """The token [T,W] of each text at the first of its largest ids."""
    end_T = ids_TN.argmax(dim=-1)
    return x_TNW.gather(1, end_T[:, None, None].expand(-1, 1, x_TNW.shape[-1]))[:, 0]
