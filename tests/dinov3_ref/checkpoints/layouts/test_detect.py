"""Detection of layouts, and of what is no DINOv3 backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint
from dinov3_ref.checkpoints.layouts.detect import LAYOUTS, detect_layout
from dinov3_ref.checkpoints.tensor_shapes import expected_shapes
from dinov3_ref.errors import ForeignCheckpoint
from tests.support.checkpoint_files import TINY_VITS

# What other models' files look like (a few of their keys), and the word that must be said about them.
FOREIGN = {
    "dinov1 or v2": (
        ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"],
        "DINOv2",
    ),
    "dinov2 registers": (
        ["cls_token", "pos_embed", "register_tokens", "patch_embed.proj.weight", "blocks.0.ls1.gamma"],
        "DINOv2 with registers",
    ),
    "timm dinov2 registers": (["cls_token", "reg_token", "pos_embed", "blocks.0.ls1.gamma"], "DINOv2"),
    "dinov2 hf": (
        ["embeddings.cls_token", "embeddings.position_embeddings", "encoder.layer.0.norm1.weight"],
        "position embeddings",
    ),
    "clip hf": (
        ["vision_model.embeddings.class_embedding", "text_model.final_layer_norm.weight"],
        "text tower",
    ),
    "clip": (["visual.conv1.weight", "transformer.resblocks.0.ln_1.weight"], "CLIP"),
    "dino.txt": (["visual_model.backbone.cls_token", "text_model.head.weight"], "dino.txt"),
    "convnext v2": (["downsample_layers.0.0.weight", "stages.0.0.grn.gamma"], "ConvNeXt V2"),
    "linear head": (["linear_head.weight", "linear_head.bias"], "head without its backbone"),
    "resnet": (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "conv1.weight, fc.weight"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_models_are_recognised(tmp_path: Path, name: str) -> None:
    keys, word = FOREIGN[name]
    path = tmp_path / "weights.safetensors"
    save_file({key: torch.zeros(1) for key in keys}, path)
    with pytest.raises(ForeignCheckpoint, match=word) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stem", "word"),
    [
        ("dinov3_vit7b16_imagenet1k_linear_head-90d8ed92", "linear classification head"),
        ("dinov3_vit7b16_synthmix_dpt_head-02040be1", "depth or canopy-height head"),
        ("dinov3_vit7b16_coco2017_detr_head-b0235ff7", "detection head"),
        ("dinov3_vit7b16_ade20k_m2f_head-bf307cb1", "segmentation head"),
        ("dinov3_vitl16_dinotxt_vision_head_and_text_encoder-a442d8f5", "dino.txt"),
    ],
)
def test_released_heads_are_told_by_their_file_names(tmp_path: Path, stem: str, word: str) -> None:
    path = tmp_path / f"{stem}.pth"
    torch.save({"weight": torch.zeros(10, 8), "bias": torch.zeros(10)}, path)
    with pytest.raises(ForeignCheckpoint, match=word):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", TINY_VITS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_each_layout_knows_its_own_keys(layout, kind: str) -> None:
    assert detect_layout(layout.shapes(TINY_VITS[kind]).keys(), "file") is layout


@pytest.mark.parametrize("kind", TINY_VITS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_written_tensors_are_the_expected_ones(layout, kind: str) -> None:
    """`from_official` and `shapes` are two views of one layout; `to_official` brings back what it kept."""
    config = TINY_VITS[kind]
    state = random_checkpoint(config).state
    tensors = layout.from_official(state, config)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    assert shapes == layout.shapes(config, tensors.keys())
    back = layout.to_official(tensors, config)
    assert back.keys() <= expected_shapes(config).keys()
    assert all(back[key].shape == state[key].shape for key in back)
    weights = [key for key in back if not key.endswith("qkv.bias")]
    assert all(torch.equal(back[key], state[key]) for key in weights)
    assert len(weights) > 20
