"""Targets from the teacher's prototype scores: Sinkhorn-Knopp, or centring and softmax (docs/spec.md 4.4).

Both prevent collapse, where the teacher assigns all samples to one prototype.
Shapes: N samples on this rank, K prototypes, [..., K] scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3_ref.distributed import all_reduce_max, all_reduce_sum
from dinov3_ref.loss.precision import at_least_fp32, no_autocast


@torch.no_grad()
def sinkhorn_knopp(scores_NK: Tensor, temperature: float, n_iterations: int = 3) -> Tensor:
    """Scores [N,K] -> targets [N,K] in fp32 (fp64 for fp64): rows sum to 1, prototypes are balanced.

    Source: Caron et al., SwAV, arXiv:2006.09882. Published form: Q = exp(scores / temperature); three times,
    divide every prototype by its sum over the samples of all ranks, then every sample by its sum over the
    prototypes. Its other divisions (by K, the number of samples, the sum of Q) cancel and are left out. exp
    overflows fp32 from a score of 88 · temperature, which is 3.5 during warm-up; so this works on logarithms.
    N may differ between ranks and may be 0. Raises ValueError for fewer than one iteration.
    """
    if n_iterations < 1:
        raise ValueError(f"n_iterations is {n_iterations}; wanted at least 1, usually 3")
    with no_autocast(scores_NK):
        logits_NK = at_least_fp32(scores_NK) / temperature
        sample_N1 = torch.zeros_like(logits_NK[:, :1])
        for _ in range(n_iterations):
            prototype_K = -_logsumexp_over_samples(logits_NK + sample_N1)
            sample_N1 = -torch.logsumexp(logits_NK + prototype_K, dim=1, keepdim=True)
        return (logits_NK + prototype_K + sample_N1).exp()


def _logsumexp_over_samples(x_NK: Tensor) -> Tensor:
    """[N,K] -> log Σ exp over the samples of all ranks, [K]."""
    peak_K = x_NK.amax(0) if len(x_NK) else x_NK.new_full(x_NK.shape[1:], -torch.inf)
    peak_K = all_reduce_max(peak_K)
    return peak_K + all_reduce_sum((x_NK - peak_K).exp().sum(0)).log()


class TeacherTargets(nn.Module):
    """Base class of the DINO and iBOT losses, with the centre for softmax targets.

    `center` is a buffer whose last dimension is K, a moving average of the teacher's scores (Caron et al.,
    arXiv:2104.14294).
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
