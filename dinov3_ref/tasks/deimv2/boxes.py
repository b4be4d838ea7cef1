"""Boxes from distributions: every side of a box is a distribution over bins, refined from layer to layer.

D-FINE's fine-grained distribution refinement (arXiv:2410.13842, section 4.1): equations 2 and 3.

Shapes: B batch, Q queries, M bins, T likeliest bins, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3_ref.tasks.deimv2.layers import MLP

LOGIT_EPS = 1e-5  # smallest share whose logit is taken


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)) of values in [0, 1], kept finite at both ends."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=LOGIT_EPS) / (1.0 - x).clamp(min=LOGIT_EPS))


def bin_offsets(bins: int, up: Tensor, reg_scale: Tensor) -> Tensor:
    """What each of the M+1 bins moves a side by: dense around zero. up, reg_scale [1].

    W(n) of equation 3: 0 in the middle, ±(s^i - 1) around it, s = (a c + 1)^(2 / (M - 2)), ±2 a c outside.
    """
    reach = up.abs() * reg_scale.abs()
    base = (reach + 1) ** (2 / (bins - 2))
    half = torch.cat([base**i - 1 for i in range(1, bins // 2)] + [2 * reach])
    return torch.cat([-half.flip(0), torch.zeros_like(reach), half])


def move_sides(box: Tensor, offsets: Tensor, reg_scale: Tensor) -> Tensor:
    """Boxes (cx, cy, w, h) [B,Q,4], offsets (left, top, right, bottom) [B,Q,4] -> moved boxes [B,Q,4].

    Equation 2: a side moves by its offset times the size of the box over `reg_scale`.
    """
    scale = reg_scale.abs()
    centre, size = box[..., :2], box[..., 2:]
    unit = size / scale
    low = centre - (0.5 * scale + offsets[..., :2]) * unit
    high = centre + (0.5 * scale + offsets[..., 2:]) * unit
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def expected_offsets(logits: Tensor, offsets: Tensor) -> Tensor:
    """Mean offset of each side: logits [B,Q,4(M+1)], offsets [M+1] -> [B,Q,4]."""
    return torch.softmax(logits.unflatten(-1, (4, -1)), dim=-1) @ offsets


class QualityEstimator(nn.Module):
    """Adds to every class score how sharp the four distributions are (arXiv:2410.13842, section 4.1).

    Class logits [B,Q,C], side logits [B,Q,4(M+1)] -> [B,Q,C]. Reads the T largest shares and their mean.
    """

    def __init__(self, top: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.top = top
        self.reg_conf = MLP(4 * (top + 1), hidden, 1, depth)

    def forward(self, scores: Tensor, sides: Tensor) -> Tensor:
        shares = torch.softmax(sides.unflatten(-1, (4, -1)), dim=-1)
        largest = shares.topk(self.top, dim=-1).values
        facts = torch.cat([largest, largest.mean(-1, keepdim=True)], dim=-1)
        return scores + self.reg_conf(facts.flatten(2))
