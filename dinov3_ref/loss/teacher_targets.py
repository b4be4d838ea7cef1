"""Targets from the teacher's prototype scores: Sinkhorn-Knopp, or centring and softmax.

Source: docs/spec.md 4.4, 4.5.

Both prevent collapse, where the teacher assigns all samples to one prototype.
Shapes: K prototypes, [..., K] scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3_ref.distributed import all_reduce_sum
from dinov3_ref.loss.precision import at_least_fp32, no_autocast
from dinov3_ref.loss.sinkhorn_knopp import sinkhorn_knopp


class TeacherTargets(nn.Module):
    """Base class of the DINO and iBOT losses, with the centre for softmax targets.

    `center` is a buffer whose last dimension is K, a moving average of the teacher's scores (Caron et al.,
    arXiv:2104.14294, equation 4).
    """

    center: Tensor

    def __init__(self, center_shape: tuple[int, ...], center_momentum: float) -> None:
        super().__init__()
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(center_shape))

    def init_weights(self) -> None:
        """Reset the centre to 0."""
        self.center.zero_()

    def sinkhorn_knopp_teacher(
        self, teacher_output: Tensor, teacher_temp: float, n_iterations: int = 3
    ) -> Tensor:
        """Scores [..., K] -> targets [..., K]; the leading dimensions together are the samples."""
        flat_NK = teacher_output.flatten(0, -2)
        return sinkhorn_knopp(flat_NK, teacher_temp, n_iterations).view(teacher_output.shape)

    @torch.no_grad()
    def softmax_center_teacher(self, teacher_output: Tensor, teacher_temp: float) -> Tensor:
        """Scores [..., K] -> softmax((scores - centre) / temperature), in fp32."""
        center_K = self.center.flatten()
        return torch.softmax((at_least_fp32(teacher_output) - center_K) / teacher_temp, dim=-1)

    @torch.no_grad()
    def update_center(self, teacher_output: Tensor) -> None:
        """centre <- m · centre + (1 - m) · mean of the scores [..., K] over the samples of all ranks.

        Call it after the step's targets are computed: they use the centre of earlier steps. The centre stays
        if no rank has a sample, or if scores are not finite.
        """
        with no_autocast(teacher_output):
            flat_NK = at_least_fp32(teacher_output).flatten(0, -2)
            count = all_reduce_sum(flat_NK.new_tensor(float(len(flat_NK))))
            mean_K = all_reduce_sum(flat_NK.sum(0)) / count.clamp(min=1)
            moved = torch.lerp(
                mean_K.to(self.center.dtype).view_as(self.center), self.center, self.center_momentum
            )
            usable = (count > 0) & moved.isfinite().all()
            self.center.copy_(torch.where(usable, moved, self.center))
