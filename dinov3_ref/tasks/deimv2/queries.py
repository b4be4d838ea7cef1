"""Query selection: every position of every map proposes a box; the best-scored ones become queries.

Shapes: B batch, D width, P positions of all maps, Q queries, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.tasks.deimv2.config import DeimV2Config
from dinov3_ref.tasks.deimv2.layers import MLP

ANCHOR_SIZE = 0.05  # share of the image, at the finest map; doubled at each coarser one
MARGIN = 0.01  # an anchor proposes nothing unless its centre and size are further than this from 0 and 1
# A centre exactly MARGIN from an edge proposes nothing. The next ones are 1 / (100 n) away, on a map of n
# places a side, so this decides alike whichever way a runtime rounds.
TIE = 1e-6
FAR = 1e4  # logit of an anchor that proposes nothing: its sigmoid is exactly 1
MASKED = -1.0  # number of a position that proposes nothing: all such queries are equal


class QuerySelection(nn.Module):
    """Maps [B,D,h,w] -> queries [B,Q,D], boxes [B,Q,4] in shares of the image, positions [B,Q].

    positions: number of the place among all maps, fine to coarse, row by row; MASKED where the place is too
    near to an edge. A float, which every runtime can return, exact up to 16.7 million.
    """

    def __init__(self, config: DeimV2Config) -> None:
        super().__init__()
        width = config.width
        self.queries = config.queries
        self.enc_output = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, config.layer_norm_eps))
        self.enc_score_head = nn.Linear(width, len(config.classes))
        self.enc_bbox_head = MLP(width, width, 4, 3)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        anchors, valid = anchors_of([m.shape[-2:] for m in maps], maps[0].device)
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # [B,P,D]
        proposals = self.enc_output(tokens * valid[:, None])
        best = self.enc_score_head(proposals).amax(-1)
        index = torch.topk(best, self.queries, dim=1).indices
        width = proposals.shape[-1]
        chosen = proposals.gather(1, index[:, :, None].expand(-1, -1, width))
        boxes = torch.sigmoid(self.enc_bbox_head(chosen) + anchors[index])
        return chosen, boxes, torch.where(valid[index] > 0, index.to(torch.float32), MASKED)


def anchors_of(shapes: Sequence[tuple[Any, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes (h, w) of the maps -> logits of the anchors (cx, cy, w, h) [P,4], and 1 or 0 [P] if valid."""
    made = []
    for level, (h, w) in enumerate(shapes):
        rows, columns = ((torch.arange(n, device=device) + 0.5) / n for n in (h, w))
        centres = torch.stack([columns.expand(h, w), rows[:, None].expand(h, w)], dim=-1).flatten(0, 1)
        made.append(torch.cat([centres, torch.full_like(centres, ANCHOR_SIZE * 2.0**level)], dim=-1))
    anchors = torch.cat(made)
    inside = torch.minimum(anchors - (MARGIN + TIE), (1.0 - MARGIN - TIE) - anchors).amin(-1) > 0.0
    logits = torch.where(inside[:, None], torch.log(anchors / (1.0 - anchors)), FAR)
    return logits, inside.to(torch.float32)
