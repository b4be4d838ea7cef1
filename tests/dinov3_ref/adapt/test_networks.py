"""What is trained, at which rates, and what a step changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3_ref.adapt.networks import FineTuned
from dinov3_ref.adapt.objectives import Classify
from dinov3_ref.adapt.options import FineTuneOptions, loop_config
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import LinearClassifier
from dinov3_ref.models import ModelConfig
from dinov3_ref.train.schedules import build_rates
from dinov3_ref.train.step import TrainingStep
from tests.support.tiny_models import tiny_config, tiny_convnext

TINY = tiny_config(depth=3, embed_dim=32, num_heads=1)


def networks(config: ModelConfig = TINY, **options: Any) -> FineTuned:
    chosen = FineTuneOptions("classify", 32, 32, **options)
    torch.manual_seed(0)
    head = LinearClassifier(config.embed_dim, 3)
    return FineTuned(random_checkpoint(config), head, Classify(), chosen).train()


def batch() -> dict[str, torch.Tensor]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return {"images": images, "targets": torch.tensor([0, 1, 2, 0])}


def trained(made: FineTuned) -> set[str]:
    return {name.removeprefix("student.") for name in made.trained_names()}


def test_the_last_blocks_and_norms_are_trained() -> None:
    made = networks(unfreeze=1)
    names = {name for name in trained(made) if not name.startswith("head.")}
    assert all(name.startswith(("backbone.blocks.2.", "backbone.norm.")) for name in names)
    assert len(names) == 2 + len(list(made.backbone.blocks[2].parameters()))
    assert not made.backbone.blocks[0].training
    assert made.backbone.blocks[2].training
    assert not made.backbone.rope_embed.training


def test_all_blocks_bring_the_embedding() -> None:
    names = trained(networks(unfreeze=3))
    assert "backbone.patch_embed.proj.weight" in names
    assert "backbone.cls_token" in names
    assert "backbone.mask_token" not in names
    assert trained(networks(unfreeze=0)) == {"head.linear.weight", "head.linear.bias"}


def test_rates_fall_with_depth_and_small_tensors_do_not_decay() -> None:
    made = networks(unfreeze=3, lr=1e-4, head_lr=1e-3, layer_decay=0.5)
    groups = {group["name"]: group for group in made.get_params_groups()}
    rates = {name: group["lr_multiplier"] for name, group in groups.items()}
    assert rates["backbone.norm.weight"] == 1
    assert rates["backbone.blocks.2.attn.qkv.weight"] == 0.5
    assert rates["backbone.blocks.0.attn.qkv.weight"] == 0.125
    assert rates["head.linear.weight"] == pytest.approx(10)
    decays = {name for name, group in groups.items() if group["wd_multiplier"]}
    assert "backbone.blocks.0.mlp.fc1.weight" in decays
    for name in ("cls_token", "storage_tokens", "norm.weight", "blocks.1.ls1.gamma", "blocks.1.mlp.fc1.bias"):
        assert f"backbone.{name}" not in decays


@pytest.mark.parametrize("options", [{"lora": 2}, {"unfreeze": 1}])
def test_a_step_changes_only_what_is_trained(options: dict[str, int]) -> None:
    made = networks(**options, warmup_epochs=0)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    config = loop_config(made.options, 4, "unused", bf16=False)
    step = TrainingStep(config, made, torch.device("cpu"))
    rates = build_rates(config)
    for iteration in range(2):  # A has no gradient while B is zero
        step(iter([batch()]), iteration, rates.at(iteration))
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == made.trained_names()


def test_the_masked_bias_of_k_stays() -> None:
    made = networks(unfreeze=3, warmup_epochs=0)
    before = made.backbone.blocks[1].attn.qkv.bias.detach().clone()
    config = loop_config(made.options, 4, "unused", bf16=False)
    TrainingStep(config, made, torch.device("cpu"))(iter([batch()]), 0, build_rates(config).at(0))
    after, D = made.backbone.blocks[1].attn.qkv.bias.detach(), TINY.embed_dim
    assert torch.equal(after[D : 2 * D], before[D : 2 * D])
    assert not torch.equal(after[:D], before[:D])


def test_autocast_leaves_rope_and_the_head_in_fp32() -> None:
    made = networks(lora=2)
    seen: dict[str, torch.dtype] = {}
    block, rope, head = made.backbone.blocks[0].attn, made.backbone.rope_embed, made.head
    block.qkv.register_forward_hook(lambda module, inputs, output: seen.update(qkv=output.dtype))
    rope.register_forward_hook(lambda module, inputs, output: seen.update(rope=output[0].dtype))
    head.register_forward_hook(lambda module, inputs, output: seen.update(head=output[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = made.forward_loss(batch(), teacher_temp=0.0)
    assert seen == {"qkv": torch.bfloat16, "rope": torch.float32, "head": torch.float32}
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)


def test_rope_of_a_bf16_training_runs_in_fp32_and_the_file_stays() -> None:
    from dataclasses import replace

    checkpoint = random_checkpoint(replace(TINY, pos_embed_rope_dtype="bf16"))
    made = FineTuned(
        checkpoint, LinearClassifier(32, 2), Classify(), FineTuneOptions("classify", 32, 32, unfreeze=3)
    )
    assert made.backbone.rope_embed.dtype == torch.float32
    with torch.no_grad():
        made.backbone.blocks[0].attn.qkv.weight.zero_()
    assert build_model(checkpoint).blocks[0].attn.qkv.weight.abs().max() > 0


def test_a_convnext_trains_its_last_stages() -> None:
    made = networks(tiny_convnext(), unfreeze=1)
    names = {name for name in trained(made) if not name.startswith("head.")}
    last = ("backbone.downsample_layers.3.", "backbone.stages.3.", "backbone.norm")
    assert all(name.startswith(last) for name in names)
    loss, _ = made.forward_loss(batch(), teacher_temp=0.0)
    loss.backward()
    with pytest.raises(ConfigError, match="no stochastic depth"):
        networks(tiny_convnext(), unfreeze=1, drop_path=0.1)


def test_too_many_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="--unfreeze 4: the backbone has 3 blocks"):
        networks(unfreeze=4)
