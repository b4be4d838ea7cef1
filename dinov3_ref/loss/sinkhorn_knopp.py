"""Sinkhorn-Knopp assignment of samples to prototypes.

Source: Caron et al., SwAV, arXiv:2006.09882, equation 5; docs/spec.md 4.4.

Shapes: N samples on this rank, K prototypes.

Published form: Q = exp(scores / temperature); three times, divide every prototype by its sum over the samples
of all ranks, then every sample by its sum over the prototypes. Its further divisions (by K, by the number of
samples, by the sum of Q) cancel in the next normalisation and are left out here. exp overflows fp32 from a
score of 88 · temperature, which is 3.5 during warm-up; here the same iteration runs on logarithms, which
cannot overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3_ref.distributed import all_reduce_max, all_reduce_sum
from dinov3_ref.loss.precision import at_least_fp32, no_autocast


@torch.no_grad()
def sinkhorn_knopp(scores_NK: Tensor, temperature: float, n_iterations: int = 3) -> Tensor:
    """Scores [N,K] -> targets [N,K] in fp32 (fp64 for fp64): rows sum to 1, prototypes are balanced.

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
