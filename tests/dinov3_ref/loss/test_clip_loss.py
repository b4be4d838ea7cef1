"""The CLIP loss against plain numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dinov3_ref.loss import clip_loss


def test_the_loss_is_the_mean_of_both_cross_entropies() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(7, 12, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2)
    )
    scale = torch.tensor([11.0], dtype=torch.float64, requires_grad=True)
    loss, metrics = clip_loss(images, texts, scale)
    logits = 11.0 * images.numpy() @ texts.numpy().T
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    assert loss.item() == pytest.approx((rows.mean() + columns.mean()) / 2, rel=1e-12)
    assert metrics["image_accuracy"].item() == pytest.approx((logits.argmax(1) == np.arange(7)).mean())
    assert metrics["text_accuracy"].item() == pytest.approx((logits.argmax(0) == np.arange(7)).mean())
    loss.backward()
    assert scale.grad is not None


def test_fp16_features_give_an_fp32_loss() -> None:
    images = F.normalize(torch.eye(4, 8), dim=-1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = clip_loss(images, images, torch.tensor([100.0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert metrics["image_accuracy"] == metrics["text_accuracy"] == 1
