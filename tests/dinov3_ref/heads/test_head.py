"""The base class of heads, and named outputs of a backbone."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import LinearClassifier, named_outputs
from dinov3_ref.models import DinoVisionTransformer
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config


@pytest.fixture(scope="module")
def model() -> DinoVisionTransformer:
    from dinov3_ref.checkpoints import build_model, random_checkpoint

    return build_model(random_checkpoint(tiny_config(), 0)).eval()


def test_named_outputs_are_those_of_the_model(model: DinoVisionTransformer) -> None:
    x = pixels(["coffee", "rocket"], 64, 96)
    with torch.no_grad():
        found = named_outputs(model, x, ["layer_1", "cls", "patch", "storage", "layer_2", "cls_1", "cls_2"])
        features = model(x, is_training=True)
        (inner,) = model.get_intermediate_layers(x, n=[1])
    assert torch.equal(found["cls"], features["x_norm_clstoken"])
    assert torch.equal(found["storage"], features["x_storage_tokens"])
    assert torch.equal(found["patch"].flatten(1, 2), features["x_norm_patchtokens"])
    assert torch.equal(found["layer_1"].flatten(1, 2), inner)
    assert torch.equal(found["layer_2"], found["patch"]), "the last block's map is normed like the last"
    assert torch.equal(found["cls_2"], found["cls"])
    assert not torch.equal(found["cls_1"], found["cls"])
    assert found["layer_1"].shape == (2, 4, 6, 128)


def test_a_missing_block_is_refused(model: DinoVisionTransformer) -> None:
    with pytest.raises(ConfigError, match=r"reads block 3; the model has blocks 0\.\.2"):
        named_outputs(model, pixels(["coffee"], 32, 32), ["layer_3"])


def test_a_head_declares_inputs_and_outputs() -> None:
    for changes, message in (
        ({"inputs": ("tokens",)}, "head input 'tokens' is unknown"),
        ({"outputs": {"cls": ("batch", 2)}}, "head output 'cls'"),
        ({"outputs": {"Logits": ("batch", 2)}}, "head output 'Logits'"),
        ({"outputs": {"logits": (2, "batch")}}, "'batch' as the first dimension"),
        ({"outputs": {"a": ("batch", 2), "b": ("batch", 2)}}, "one output of two dimensions to classify"),
        ({"inputs": ()}, "no inputs or no outputs"),
    ):
        head = LinearClassifier(8, 2)
        for name, value in changes.items():
            setattr(head, name, value)
        with pytest.raises(ConfigError, match=message):
            head.check()
