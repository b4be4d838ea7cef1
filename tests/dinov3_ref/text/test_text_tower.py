from __future__ import annotations

import torch

from dinov3_ref.text.text_tower import TextTower, pool_at_end
from tests.support.text.tiny_text import tiny_text_config


def test_pooling_takes_the_first_of_the_largest_ids() -> None:
    x_TNW = torch.arange(12.0).reshape(2, 3, 2)
    pooled = pool_at_end(x_TNW, torch.tensor([[1, 9, 9], [0, 0, 4]]))
    assert pooled.tolist() == [[2.0, 3.0], [10.0, 11.0]]


def test_the_mlp_has_the_width_of_the_file() -> None:
    tower = TextTower(tiny_text_config(text_ffn=333, text_layerscale=True))
    names = dict(tower.named_parameters())
    assert names["backbone.blocks.0.feed_forward.fc1.weight"].shape == (333, 128)
    assert names["backbone.blocks.0.ls1.gamma"].shape == (128,)


def test_tokens_do_not_see_those_behind_them() -> None:
    tower = TextTower(tiny_text_config()).eval()
    torch.manual_seed(0)
    tower.init_weights()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        whole, part = tower.backbone(ids), tower.backbone(ids[:, :2])
    torch.testing.assert_close(whole[:, :2], part, rtol=1e-5, atol=1e-5)
