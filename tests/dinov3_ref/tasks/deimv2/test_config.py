"""config.json is read with transformers' defaults; options that no model can have are refused."""

from __future__ import annotations

from typing import Any

import pytest

from dinov3_ref.errors import CheckpointError, ForeignCheckpoint
from dinov3_ref.tasks.deimv2.config import read_config

BACKBONE = {"model_type": "dinov3_vit", "num_hidden_layers": 12, "out_indices": [6, 9, 12]}


def config(**changes: Any) -> dict[str, Any]:
    return {"model_type": "deimv2", "backbone_config": BACKBONE, **changes}


def test_defaults() -> None:
    read = read_config(config(), "model")
    assert (read.blocks, read.norms, read.points) == ((5, 8, 11), (True, True, True), (4, 4, 4))
    assert (read.width, read.csp_width, read.csp_depth) == (256, 128, 3)
    assert read.classes == ("LABEL_0", "LABEL_1")
    assert read.encoder_positions


def test_only_the_last_block_is_normed() -> None:
    """ViT-Tiny backbones: transformers norms the last block's map whatever `apply_layernorm` says."""
    read = read_config(config(backbone_config=BACKBONE | {"apply_layernorm": False}), "model")
    assert read.norms == (False, False, True)


def test_sizes_round_as_transformers_rounds() -> None:
    """Depth 3 * 1.5 = 4.5 to even; width 0.34 * 200 / 2 down."""
    read = read_config(config(depth_mult=1.5, hidden_expansion=1.25), "model")
    assert (read.csp_depth, read.csp_width) == (4, 160)
    odd = {"encoder_hidden_dim": 200, "decoder_in_channels": [200] * 3, "hidden_expansion": 0.34}
    assert read_config(config(**odd), "model").csp_width == 34


def test_class_names_are_in_the_order_of_their_numbers() -> None:
    names = {str(i): f"class {i}" for i in (10, 2, 1, 0, 3, 4, 5, 6, 7, 8, 9)}
    assert read_config(config(id2label=names), "model").classes[9:] == ("class 9", "class 10")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_type": "lite"}, "encoder_type 'lite'"),
        ({"encoder_fuse_op": "cat"}, "encoder_fuse_op 'cat'"),
        ({"learn_initial_query": True}, "learn_initial_query"),
        ({"eval_idx": -2}, "eval_idx -2 of 6 layers"),
        ({"max_num_bins": 31}, "even number of bins"),
        ({"decoder_n_points": [4, 4]}, "decoder_n_points"),
        ({"d_model": "256"}, "d_model '256'; wanted a positive integer"),
        ({"activation_function": "mish"}, "activation_function 'mish'; wanted one of"),
        ({"encode_proj_layers": [3]}, "encode_proj_layers"),
        ({"decoder_attention_heads": 7}, "multiple of"),
        ({"decoder_in_channels": [128, 128, 128]}, "decoder_in_channels"),
        ({"num_feature_levels": 2}, "num_feature_levels 2"),
        ({"backbone_config": BACKBONE | {"out_indices": [6, 12]}}, "out_indices"),
        ({"backbone_config": BACKBONE | {"out_indices": [0, 6, 12]}}, "ascending numbers from 1"),
        ({"backbone_config": BACKBONE | {"patch_size": 14}}, "patch_size 14"),
    ],
)
def test_what_is_not_supported_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_config(config(**changes), "model")


@pytest.mark.parametrize("backbone", [None, {"model_type": "hgnet_v2"}])
def test_another_backbone_is_named(backbone: Any) -> None:
    with pytest.raises(ForeignCheckpoint, match="hgnet_v2"):
        read_config(config(backbone_config=backbone), "model")
