from __future__ import annotations

import pytest

from dinov3_ref.checkpoints import build_model
from dinov3_ref.errors import ConfigError, KeyMismatch
from dinov3_ref.text import DinoTxtConfig, build_dinotxt, expected_shapes
from dinov3_ref.text.config import infer_config
from tests.support.text.tiny_text import tiny_dinotxt, tiny_text_config


def test_sizes_are_read_from_shapes() -> None:
    for config in (DinoTxtConfig(), tiny_text_config(text_layerscale=True, vision_layerscale=False)):
        assert infer_config(expected_shapes(config), "file") == config


def test_the_released_file() -> None:
    """Some of its tensors: https://github.com/facebookresearch/dinov3, docs/spec.md 5.8."""
    shapes = expected_shapes(DinoTxtConfig())
    assert len(shapes) == 302
    assert shapes["visual_model.head.blocks.1.mlp.w3.weight"] == (1024, 2752)
    assert shapes["text_model.backbone.blocks.23.attention.qkv.weight"] == (3840, 1280)
    assert shapes["text_model.head.linear_projection.weight"] == (2048, 1280)
    assert shapes["logit_scale"] == (1,)
    assert "text_model.backbone.blocks.0.attention.qkv.bias" not in shapes


@pytest.mark.parametrize("layerscale", [True, False])
def test_a_model_has_these_tensors_and_no_others(layerscale: bool) -> None:
    loaded = tiny_dinotxt()
    config = tiny_text_config(text_layerscale=layerscale, vision_layerscale=layerscale)
    model = build_dinotxt(build_model(loaded.backbone), config)  # type: ignore[arg-type]
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    own = {name: shape for name, shape in shapes.items() if not name.startswith("visual_model.backbone.")}
    assert own == expected_shapes(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_dim": 100}, "text_dim is 100; wanted a multiple of 64"),
        ({"embed_dim": 128}, "text embeddings have 128 numbers, image embeddings 256"),
        ({"context_length": 1}, "context_length is 1"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_text_config(**change)


def test_a_missing_tensor_is_named() -> None:
    shapes = expected_shapes(tiny_text_config())
    del shapes["text_model.head.linear_projection.weight"]
    with pytest.raises(KeyMismatch, match=r"linear_projection\.weight should be .* 2 axes; it is missing"):
        infer_config(shapes, "file")
