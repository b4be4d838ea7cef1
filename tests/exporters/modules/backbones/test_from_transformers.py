"""transformers' models: what our blocks do not support is refused, with the reason."""

from __future__ import annotations

import pytest
import torch

from dinodeploy.errors import ExportError
from exporters.modules.backbones.swap import swap
from tests.support.whole_models import Called, transformers_vit


def test_another_eps_is_refused() -> None:
    with pytest.raises(ExportError, match=r"layer_norm_eps 0\.01; wanted 1e-05 or 1e-06"):
        swap(transformers_vit(layer_norm_eps=1e-2))


def test_attention_weights_are_refused() -> None:
    net = transformers_vit(attn_implementation="eager")
    module = Called(net, lambda net, x: net(x, output_attentions=True).attentions).eval()
    copied, _ = swap(module)
    with pytest.raises(ExportError, match="calls its backbone with output_attentions"):
        copied(torch.zeros(1, 3, 32, 32))


def test_periods_are_those_in_memory() -> None:
    net = transformers_vit()
    net.rope_embeddings.inv_freq.mul_(0.9)
    copied, _ = swap(net)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, got = net(x).last_hidden_state, copied(x).last_hidden_state
    assert float((got - wanted).norm() / wanted.norm()) < 2e-6  # measured 5e-7
