"""The alignment of texts: what is trained, the scale's limits, and the batch over two ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3_ref.configs import load_config
from dinov3_ref.errors import ConfigError
from dinov3_ref.train.schedules import build_rates
from dinov3_ref.train.step import TrainingStep
from dinov3_ref.train.text.alignment import TextAlignment, sizes_of
from dinov3_ref.train.text.captions import build_caption_loader
from tests.support.text.captions import text_run
from tests.support.training.ranks import run_on_ranks

BACKBONE = "visual_model.backbone."


def test_the_backbone_stays_and_the_scale_is_limited(captions: Path, tmp_path: Path) -> None:
    config = text_run(captions, tmp_path, "train.batch_size_per_gpu=8", "text.max_logit_scale=15")
    torch.manual_seed(0)
    alignment = TextAlignment(config).train()
    assert not alignment.model.visual_model.backbone.training
    before = {name: tensor.clone() for name, tensor in alignment.model.state_dict().items()}
    step = TrainingStep(config, alignment, torch.device("cpu"))
    step(iter(build_caption_loader(config)), 0, build_rates(config).at(0))
    for name, tensor in alignment.model.state_dict().items():
        unused = name.endswith(("token_embedding.weight", "positional_embedding"))  # in part
        same = torch.equal(tensor, before[name])
        assert same == name.startswith(BACKBONE) or unused, name
    with torch.no_grad():
        alignment.model.logit_scale.fill_(9.0)
        alignment.after_step(0, 0.0)
        assert alignment.model.logit_scale.item() == pytest.approx(math.log(15))
        alignment.model.logit_scale.fill_(-1.0)
        alignment.after_step(0, 0.0)
        assert alignment.model.logit_scale.item() == 0.0
    decay = {group["name"]: group["wd_multiplier"] for group in alignment.get_params_groups()}
    assert not any(name.startswith(BACKBONE) for name in decay)
    assert decay["logit_scale"] == decay["text_model.backbone.ln_final.weight"] == 0
    assert decay["text_model.head.linear_projection.weight"] == 1


def test_the_sizes_of_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    config = load_config("dinotxt", ["text.backbone=x", "text.vocabulary=x"])
    vit_l: Any = SimpleNamespace(config=SimpleNamespace(embed_dim=1024))
    found = sizes_of(config, vit_l)
    assert (found.vision_ffn, found.text_ffn, found.embed_dim, found.text_heads) == (2752, 5120, 2048, 20)
    rates = build_rates(config, world_size=64)
    assert rates.total_iterations == 50_000
    assert [rates.at(i).lr for i in (0, 1999, 2000)] == pytest.approx([0, 7e-4, 7e-4])
    assert rates.at(49_999).weight_decay == 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("text.backbone=''", "text.backbone is empty"),
        ("text.vocabulary=''", "text.vocabulary is empty"),
        ("compute_precision.sharding_strategy=FULL_SHARD", "wanted NO_SHARD"),
        ("crops.global_crops_size=36", "crops.global_crops_size is 36; wanted one number, a multiple of 8"),
        ("crops.rgb_mean=[0.4,0.5,0.5]", "the backbone was trained with .*0.5, 0.5, 0.5"),
        ("text.dim=60", "text_dim is 60; wanted a multiple of 64"),
        ("text.max_logit_scale=1", "wanted more than 1"),
    ],
)
def test_contradictions_are_one_line(captions: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextAlignment(text_run(captions, tmp_path, override))


def losses_of_two_steps(captions: str, output: str, batch: int) -> tuple[list[float], torch.Tensor]:
    """(losses, the logit scale and a weight) after two steps with `batch` images per rank."""
    config = text_run(Path(captions), Path(output), f"train.batch_size_per_gpu={batch}")
    torch.manual_seed(0)
    alignment = TextAlignment(config).train()
    step = TrainingStep(config, alignment, torch.device("cpu"))
    batches = iter(build_caption_loader(config))
    losses = [float(step(batches, i, build_rates(config).at(i))["total_loss"]) for i in range(2)]
    weight = alignment.model.text_model.head.linear_projection.weight
    return losses, torch.cat([alignment.model.logit_scale, weight[0], weight[:, 1]]).detach()


@pytest.mark.slow
def test_two_ranks_are_one_rank_with_the_whole_batch(captions: Path, tmp_path: Path) -> None:
    one, weights = losses_of_two_steps(str(captions), str(tmp_path), 8)
    (tmp_path / "ranks").mkdir()
    both = run_on_ranks(losses_of_two_steps, 2, tmp_path / "ranks", str(captions), str(tmp_path), 4)
    for losses, of_rank in both:
        assert losses == pytest.approx(one, rel=1e-5)
        torch.testing.assert_close(of_rank, weights, rtol=1e-4, atol=1e-6)
