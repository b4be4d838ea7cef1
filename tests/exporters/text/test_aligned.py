from __future__ import annotations

import torch

from dinov3_ref.checkpoints import build_model
from dinov3_ref.models import DinoVisionTransformer, named_blocks
from exporters.text.aligned import AlignedBackbone, AlignedOutputs, make_outputs
from exporters.trace.trace import TokenOutputs
from tests.support.text.tiny_text import tiny_dinotxt


def test_the_outputs_are_the_reference_models() -> None:
    loaded = tiny_dinotxt()
    model, backbone = loaded.build(), build_model(loaded.backbone)
    assert isinstance(backbone, DinoVisionTransformer)
    aligned = AlignedBackbone(backbone, model.visual_model.head)
    outputs = make_outputs(aligned, (1,), False, True)
    assert isinstance(outputs, AlignedOutputs)
    assert outputs.output_names == (
        "image_embedding",
        "patch_embedding",
        "cls",
        "storage",
        "patch",
        "layer_1",
    )
    pixels = torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        made = dict(zip(outputs.output_names, outputs(pixels), strict=True))
        features, patches, backbone_patches = model.encode_image_with_patch_tokens(pixels)
        by_name = aligned(pixels, is_training=True)
    assert torch.allclose(made["image_embedding"], features, atol=1e-6)
    assert torch.allclose(made["patch_embedding"].flatten(1, 2), patches, atol=1e-6)
    assert torch.allclose(made["patch"].flatten(1, 2), backbone_patches, atol=1e-6)
    assert torch.allclose(by_name["x_norm_clstoken"], features[:, :128], atol=1e-6)
    assert torch.allclose(by_name["x_norm_patchtokens"], patches, atol=1e-6)


def test_the_head_follows_the_blocks_and_the_backbone_stays() -> None:
    loaded = tiny_dinotxt()
    backbone = build_model(loaded.backbone)
    assert isinstance(backbone, DinoVisionTransformer)
    aligned = AlignedBackbone(backbone, loaded.build().visual_model.head)
    names = [path for path, _ in named_blocks(aligned)]
    assert names == ["blocks.0", "blocks.1", "blocks.2", "text_head.blocks.0", "text_head.blocks.1"]
    assert [path for path, _ in named_blocks(backbone)] == names[:3]
    assert type(make_outputs(backbone, (), False, False)) is TokenOutputs
