"""Linear heads by hand, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads import HeadedBackbone, LinearClassifier, LinearSegmenter, named_outputs
from dinov3_ref.models import DinoVisionTransformer
from tests.support.photographs import pixels
from tests.support.tiny_models import tiny_config


@pytest.fixture(scope="module")
def model() -> DinoVisionTransformer:
    from dinov3_ref.checkpoints import build_model, random_checkpoint

    return build_model(random_checkpoint(tiny_config(), 0)).eval()


def test_named_outputs_are_those_of_the_model(model: DinoVisionTransformer) -> None:
    x = pixels(["coffee", "rocket"], 64, 96)
    with torch.no_grad():
        found = named_outputs(model, x, ["layer_1", "cls", "patch", "storage", "layer_2"])
        features = model(x, is_training=True)
        (inner,) = model.get_intermediate_layers(x, n=[1])
    assert torch.equal(found["cls"], features["x_norm_clstoken"])
    assert torch.equal(found["storage"], features["x_storage_tokens"])
    assert torch.equal(found["patch"].flatten(1, 2), features["x_norm_patchtokens"])
    assert torch.equal(found["layer_1"].flatten(1, 2), inner)
    assert torch.equal(found["layer_2"], found["patch"]), "the last block's map is normed like the last"
    assert found["layer_1"].shape == (2, 4, 6, 128)


def test_a_block_that_is_not_there_is_refused(model: DinoVisionTransformer) -> None:
    with pytest.raises(ConfigError, match=r"reads layer_3; the model has blocks 0\.\.2"):
        named_outputs(model, pixels(["coffee"], 32, 32), ["layer_3"])


@pytest.mark.parametrize("pooling", ["cls", "cls_mean"])
def test_classifier_by_hand(pooling: str) -> None:
    torch.manual_seed(0)
    head = LinearClassifier(8, 3, pooling)  # type: ignore[arg-type]
    cls, patch = torch.randn(2, 8), torch.randn(2, 4, 5, 8)
    (logits,) = head(*((cls, patch) if pooling == "cls_mean" else (cls,)))
    x = torch.cat([cls, patch.flatten(1, 2).mean(1)], -1) if pooling == "cls_mean" else cls
    torch.testing.assert_close(logits, x @ head.linear.weight.T)
    assert logits.shape == (2, 3)


def test_segmenter_by_hand() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 5, 8) for _ in range(2)]
    small = LinearSegmenter(8, 4, "patch", layers=(1, 2), batchnorm=True, patch_size=4).eval()
    small.batchnorm.running_mean.normal_()  # type: ignore[union-attr, operator]
    small.batchnorm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    large = LinearSegmenter(8, 4, "pixel", layers=(1, 2), batchnorm=True, patch_size=4).eval()
    large.load_state_dict(small.state_dict())
    (logits,), (pixel,) = small(*maps), large(*maps)
    x = torch.cat(maps, -1)
    bn = small.batchnorm
    x = (x - bn.running_mean) / (bn.running_var + bn.eps).sqrt()  # type: ignore[operator]
    wanted = x @ small.conv.weight[:, :, 0, 0].T
    torch.testing.assert_close(logits.permute(0, 2, 3, 1), wanted)
    assert pixel.shape == (2, 4, 12, 20)
    torch.testing.assert_close(pixel, F.interpolate(logits, size=(12, 20), mode="bilinear"))


def test_only_the_head_learns(model: DinoVisionTransformer) -> None:
    both = HeadedBackbone(model, LinearClassifier(128, 3)).train()
    both(pixels(["coffee"], 32, 48))["logits"].sum().backward()
    assert not both.backbone.training
    assert all(p.grad is None and not p.requires_grad for p in both.backbone.parameters())
    assert all(p.grad is not None for p in both.head.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearClassifier(8, 0), "num_classes is 0"),
        (lambda: LinearClassifier(8, 2, "mean"), "pooling 'mean' is unknown"),  # type: ignore[arg-type]
        (lambda: LinearClassifier(8, 2, classes=("a",)), "1 class names for 2 classes"),
        (
            lambda: LinearClassifier(8, 2, classes=("a", "a")),
            "2 class names for 2 classes; wanted one different name each",
        ),
        (lambda: LinearSegmenter(8, 2, "full"), "size 'full' is unknown"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_head_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_head_must_say_what_it_reads_and_gives() -> None:
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
