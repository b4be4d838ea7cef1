"""dino.txt's text tower as it is traced: attention as a custom op, one mask for all blocks.

Shapes: T texts, N tokens of each, W width, E embedding size.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinov3_ref.layers import CausalSelfAttentionBlock
from dinov3_ref.text import TextTower
from exporters.trace.custom_ops import causal_mask
from exporters.trace.fold import Weights, copy_to_meta, fold_blocks, weights_of
from exporters.trace.repeat import collapse_repeats

OUTPUT = "text_embedding"
TRACED = (2, 6)  # texts, tokens: neither is kept
EXACT = 2**24  # float32 holds every integer below


class TracedTextBlock(nn.Module):
    """Replaces `CausalSelfAttentionBlock` over the same parameters: x [T,N,W], mask [N,N] -> [T,N,W]."""

    def __init__(self, block: CausalSelfAttentionBlock) -> None:
        super().__init__()
        self.attention_norm, self.attention, self.ls1 = block.attention_norm, block.attention, block.ls1
        self.ffn_norm, self.feed_forward, self.ls2 = block.ffn_norm, block.feed_forward, block.ls2

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.ls1(self.attention(self.attention_norm(x), mask))
        return x + self.ls2(self.feed_forward(self.ffn_norm(x)))


class TracedTextTower(nn.Module):
    """Replaces `TextTower` over the same parameters: token ids [T,N] -> [T,E], N up to the context length."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.backbone, self.head = tower.backbone, tower.head
        blocks = self.backbone.blocks
        for index, block in enumerate(blocks):
            assert isinstance(block, CausalSelfAttentionBlock)
            blocks[index] = TracedTextBlock(block)
        self.context_length, _ = self.backbone.positional_embedding.shape
        assert self.context_length * self.backbone.token_embedding.num_embeddings < EXACT

    def forward(self, token_ids: Tensor) -> Tensor:
        tower, N = self.backbone, token_ids.shape[1]
        x_TNW = tower.token_embedding(token_ids) + tower.positional_embedding[:N]
        mask = causal_mask(token_ids)
        for block in tower.blocks:
            x_TNW = block(x_TNW, mask)
        # no two keys are equal: of equal maxima, not every runtime takes the first, or compares int64
        keys = token_ids.float() * self.context_length - torch.arange(N, device=token_ids.device)
        end = keys.argmax(dim=-1)[:, None, None].expand(-1, 1, x_TNW.shape[-1])
        return self.head(tower.ln_final(x_TNW.gather(1, end)[:, 0]))


class TextOutputs(nn.Module):
    """The tower as the attribute `model`, whose name all its weights begin with."""

    def __init__(self, model: TracedTextTower) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor) -> tuple[Tensor]:
        return (self.model(token_ids),)


def make_text_copy(tower: TextTower, folds: Collection[str]) -> tuple[TracedTextTower, Weights]:
    """A copy on the meta device for tracing, and the table of its weights."""
    meta_copy, weights = copy_to_meta(tower).eval(), weights_of(tower)
    fold_blocks(tower, meta_copy, weights, folds)
    return TracedTextTower(meta_copy), weights


def trace_text(module: TextOutputs) -> ExportedProgram:
    """The exported program; number of texts and of tokens stay symbolic."""
    ids = torch.zeros(TRACED, dtype=torch.int64, device="meta")
    sizes = {0: Dim("texts"), 1: Dim("tokens", max=module.model.context_length)}
    with torch.no_grad(), warnings.catch_warnings(), collapse_repeats(module.model):
        warnings.simplefilter("ignore")  # torch's own deprecation warnings
        return torch.export.export(module, (ids,), dynamic_shapes=(sizes,), strict=False)
