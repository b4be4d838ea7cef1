"""What the manifest says of a backbone in memory."""

from __future__ import annotations

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.models.released import ARCHITECTURES
from exporters.modules.facts import arch_of, sha256_of_tensors
from tests.support.tiny_models import tiny_config, tiny_convnext


def test_released_shapes_have_their_names() -> None:
    assert arch_of(build_model(random_checkpoint(ARCHITECTURES["vit_small"], 0))) == "vit_small"
    assert arch_of(build_model(random_checkpoint(tiny_config(depth=1), 0))) == "custom"
    assert arch_of(build_model(random_checkpoint(tiny_convnext(), 0))) == "custom"


def test_the_hash_is_of_every_value() -> None:
    model = build_model(random_checkpoint(tiny_config(depth=1), 0))
    before = sha256_of_tensors(model)
    assert sha256_of_tensors(model) == before
    model.norm.bias.data[0] += 1e-3
    assert sha256_of_tensors(model) != before
