"""DINO loss: the student's CLS predicts the teacher's, across crops (arXiv:2104.14294; docs/spec.md 4.4).

Shapes: S student crops, T teacher crops, B images, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3_ref.loss.precision import at_least_fp32, no_autocast
from dinov3_ref.loss.teacher_targets import TeacherTargets


class DINOLoss(TeacherTargets):
    """Mean cross-entropy of every student crop against every teacher crop of the same image.

    loss = -Σ_{s,t,b,k} target[t,b,k] · log softmax(logits[s,b,k] / student_temp) / (B·S·T).
    """

    def __init__(self, out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9) -> None:
        super().__init__((1, out_dim), center_momentum)
        self.student_temp = student_temp

    def forward(self, student_logits: Tensor, teacher_probs: Tensor, ignore_diagonal: bool = False) -> Tensor:
        """Student logits [S,B,K] and teacher targets [T,B,K] -> the loss, a scalar in fp32.

        [B,K] means one crop. `ignore_diagonal` leaves out the pairs s = t (the same crop, when both sides are
        the global crops); the mean is then over B·min(S,T) fewer terms. Raises ValueError for shapes that do
        not match, and if no pair is left.
        """
        student_SBK, teacher_TBK = _as_crops(student_logits), _as_crops(teacher_probs)
        if student_SBK.shape[1:] != teacher_TBK.shape[1:]:
            raise ValueError(
                f"student logits {list(student_logits.shape)} do not fit teacher targets "
                f"{list(teacher_probs.shape)}; wanted [S,B,K] and [T,B,K]"
            )
        crops_s, images, _ = student_SBK.shape
        crops_t = len(teacher_TBK)
        pairs = crops_s * crops_t - (min(crops_s, crops_t) if ignore_diagonal else 0)
        if pairs == 0:
            raise ValueError(
                "one student crop and one teacher crop have no pair off the diagonal; "
                "pass ignore_diagonal=False or give more crops"
            )
        with no_autocast(student_SBK):
            log_probs_SBK = torch.log_softmax(at_least_fp32(student_SBK) / self.student_temp, dim=-1)
            entropy_ST = -torch.einsum("sbk,tbk->st", log_probs_SBK, teacher_TBK.to(log_probs_SBK.dtype))
        if ignore_diagonal:
            diagonal = torch.eye(crops_s, crops_t, dtype=torch.bool, device=entropy_ST.device)
            entropy_ST = entropy_ST.masked_fill(diagonal, 0)
        return entropy_ST.sum() / (images * pairs)


def _as_crops(x: Tensor) -> Tensor:
    """[crops,B,K] or [B,K] -> [crops,B,K]."""
    if x.dim() not in (2, 3):
        raise ValueError(f"DINO loss got a tensor of shape {list(x.shape)}; wanted [crops,B,K] or [B,K]")
    return x if x.dim() == 3 else x.unsqueeze(0)
