"""KoLeo loss: spread the features of a batch over the sphere.

Source: Sablayrolles et al., arXiv:1806.03198 (KoLeo regulariser); docs/spec.md 4.6.

loss = -mean log(‖x_i - x_n‖ + eps) over the nearest neighbours n of each i, after L2 normalisation:
the Kozachenko-Leonenko estimator of differential entropy.
Shapes: B rows on this rank, A rows of all ranks, D embed_dim, k neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.distributed import gather_rows, get_rank
from dinov3_ref.loss.precision import at_least_fp32, no_autocast


class KoLeoLoss(nn.Module):
    """KoLeo over the rows of this rank, in fp32 (the published code uses the input's dtype)."""

    def __init__(self, topk: int = 1) -> None:
        super().__init__()
        self.topk = topk

    def forward(self, student_output: Tensor, eps: float = 1e-8) -> Tensor:
        """Features [B,D] -> scalar. Raises ValueError if a row has fewer than `topk` neighbours."""
        with no_autocast(student_output):
            x_BD = F.normalize(at_least_fp32(student_output), dim=-1, eps=eps)
            every_row = torch.arange(len(x_BD), device=x_BD.device)
            return _spread(x_BD, x_BD, every_row, len(x_BD), self.topk, eps)


class KoLeoLossDistributed(nn.Module):
    """KoLeo with neighbours from all ranks, or from consecutive groups of `loss_group_size` rows.

    The mean over ranks, of loss and gradients, is that of one rank with the whole batch.
    """

    def __init__(self, topk: int = 1, loss_group_size: int | None = None) -> None:
        super().__init__()
        self.topk = topk
        self.loss_group_size = loss_group_size

    def forward(self, student_output: Tensor, eps: float = 1e-8) -> Tensor:
        """Features [B,D], with the same B on every rank -> scalar over this rank's rows.

        Raises ValueError if the group size does not divide the rows of all ranks, or if a row has fewer than
        `topk` neighbours.
        """
        with no_autocast(student_output):
            x_BD = F.normalize(at_least_fp32(student_output), dim=-1, eps=eps)
            all_AD = gather_rows(x_BD)
            group_size = self.loss_group_size or len(all_AD)
            if len(all_AD) % group_size:
                raise ValueError(
                    f"KoLeo groups of {group_size} rows do not divide a batch of {len(all_AD)} over all "
                    "ranks; set dino.koleo_distributed_loss_group_size to a divisor"
                )
            own_rows = get_rank() * len(x_BD) + torch.arange(len(x_BD), device=x_BD.device)
            return _spread(x_BD, all_AD, own_rows, group_size, self.topk, eps)


def _spread(x_BD: Tensor, all_AD: Tensor, rows_B: Tensor, group_size: int, topk: int, eps: float) -> Tensor:
    """The loss of x [B,D] = all[rows]; neighbours from the same `group_size` rows of all [A,D]."""
    if group_size <= topk:
        raise ValueError(
            f"KoLeo needs {topk} neighbours for each of {group_size} rows; "
            "use a larger batch, or set dino.koleo_loss_weight=0"
        )
    nearest_Bk = _nearest(x_BD.detach(), all_AD.detach(), rows_B, group_size, topk)
    difference_BkD = x_BD.unsqueeze(1) - all_AD[nearest_Bk]
    distance_Bk = torch.linalg.vector_norm(difference_BkD + eps, dim=-1)
    return -torch.log(distance_Bk + eps).mean()


def _nearest(x_BD: Tensor, all_AD: Tensor, rows_B: Tensor, group_size: int, topk: int) -> Tensor:
    """Indices [B,k] into all [A,D] of the nearest other rows in the same group."""
    similarity_BA = x_BD @ all_AD.T
    columns_A = torch.arange(len(all_AD), device=x_BD.device)
    foreign_BA = columns_A // group_size != (rows_B // group_size).unsqueeze(1)
    itself_BA = columns_A == rows_B.unsqueeze(1)
    return similarity_BA.masked_fill(foreign_BA | itself_BA, -torch.inf).topk(topk, dim=1).indices
