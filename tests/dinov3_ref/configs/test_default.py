"""The default configuration: official defaults, attribute access, unknown keys refused.

Source: docs/spec.md 4.1.
"""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

from dinov3_ref.configs import get_default_config

# docs/spec.md 4.1, row "student", and 1.2 for what that row leaves out.
STUDENT = {
    "arch": "vit_large",
    "embed_dim": None,  # the value of the architecture
    "depth": None,
    "num_heads": None,
    "depths": None,
    "dims": None,
    "patch_size": 16,
    "in_chans": 3,
    "drop_path_rate": 0.3,
    "layerscale": 1e-5,
    "ffn_layer": None,  # the value of the architecture
    "ffn_ratio": None,
    "qkv_bias": True,
    "proj_bias": True,
    "ffn_bias": True,
    "norm_layer": "layernorm",
    "n_storage_tokens": 0,
    "mask_k_bias": False,
    "untie_cls_and_patch_norms": False,
    "untie_global_and_local_cls_norm": False,
    "pos_embed_rope_base": 100.0,
    "pos_embed_rope_min_period": None,
    "pos_embed_rope_max_period": None,
    "pos_embed_rope_normalize_coords": "separate",
    "pos_embed_rope_shift_coords": None,
    "pos_embed_rope_jitter_coords": None,
    "pos_embed_rope_rescale_coords": None,
    "pos_embed_rope_dtype": "bf16",
    "fp8_enabled": False,
    "pretrained_weights": "",
    "resume_from_teacher_chkpt": "",
}
HEAD = {
    "head_n_prototypes": 65536,
    "head_bottleneck_dim": 256,
    "head_nlayers": 3,
    "head_hidden_dim": 2048,
}
# docs/spec.md 4.1, the other rows. Not official: depths and dims of student, dataset_path (ImageNet there),
# accumulation_steps, log_period, gc_period, stop_deadline, shard_ranks, asynchronous, tensorboard, trackers,
# fused, the colour keys of crops (of which the official class has one), all but one of evaluation.
GROUPS: dict[str, Any] = {
    "student": STUDENT,
    "teacher": {
        "momentum_teacher": 0.992,
        "final_momentum_teacher": 1.0,
        "warmup_teacher_temp": 0.04,
        "teacher_temp": 0.07,
        "warmup_teacher_temp_epochs": 30,
    },
    "distillation": {"enabled": False, "full_cfg_path": "", "checkpoint_path": ""},
    "multidistillation": {"enabled": False, "global_batch_size": None, "students": []},
    "crops": {
        "global_crops_scale": [0.32, 1.0],
        "global_crops_size": 224,
        "local_crops_number": 8,
        "local_crops_scale": [0.05, 0.32],
        "local_crops_size": 96,
        "global_local_crop_pairs_ratios": 1.0,
        "gram_teacher_crops_size": None,
        "gram_teacher_no_distortions": False,
        "teacher_to_student_resolution_scale": 1.0,
        "localcrops_subset_of_globalcrops": False,
        "share_color_jitter": False,
        "teacher_no_color_jitter": False,
        "color_jitter": [0.4, 0.4, 0.2, 0.1],
        "grayscale_probability": 0.2,
        "horizontal_flips": True,
        "rgb_mean": [0.485, 0.456, 0.406],
        "rgb_std": [0.229, 0.224, 0.225],
    },
    "dino": {
        **HEAD,
        "loss_weight": 1.0,
        "global_ignore_diagonal": True,
        "koleo_loss_weight": 0.1,
        "koleo_loss_distributed": False,
        "koleo_topk": 1,
        "koleo_distributed_loss_group_size": None,
        "reweight_dino_local_loss": False,
        "local_loss_weight_schedule": {
            "start": 0.5,
            "peak": 0.5,
            "end": 0.5,
            "warmup_epochs": 0,
            "cosine_epochs": None,
        },
    },
    "ibot": {
        **HEAD,
        "loss_weight": 1.0,
        "mask_sample_probability": 0.5,
        "mask_ratio_min_max": [0.1, 0.5],
        "mask_random_circular_shift": False,
    },
    "gram": {
        "use_loss": False,
        "compute_stats": False,
        "loss_weight": 1.0,
        "loss_weight_schedule": None,
        "ema_teacher": False,
        "ckpt": None,
        "it_load_ema_teacher": -1,
        "rep_update": True,
        "update_frequency": 50000,
        "it_first_update": 0,
        "max_updates": None,
        "normalized": True,
        "img_level": False,
        "remove_neg": False,
        "remove_only_teacher_neg": False,
        "tokens_used": "all",
        "global_teacher_resize_method": "bicubic",
        "global_teacher_resize_antialias": False,
    },
    "compute_precision": {
        "param_dtype": "bf16",
        "reduce_dtype": "fp32",
        "sharding_strategy": "SHARD_GRAD_OP",
        "shard_ranks": None,
    },
    "train": {
        "dataset_path": "",
        "output_dir": ".",
        "seed": 0,
        "batch_size_per_gpu": 64,
        "accumulation_steps": 1,
        "num_workers": 10,
        "OFFICIAL_EPOCH_LENGTH": 1250,
        "centering": "sinkhorn_knopp",
        "checkpointing": False,
        "checkpointing_full": False,
        "compile": True,
        "log_period": 10,
        "gc_period": 150,
        "stop_deadline": 120.0,
        "tensorboard": True,
        "trackers": [],
    },
    "optim": {
        "epochs": 100,
        "lr": 1e-3,
        "warmup_epochs": 10,
        "min_lr": 1e-6,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "schedule_trunc_extra": 0.0,
        "clip_grad": 3.0,
        "freeze_last_layer_epochs": 1,
        "scaling_rule": "sqrt_wrt_1024",
        "patch_embed_lr_mult": 0.2,
        "dino_head_wd_multiplier": 1.0,
        "layerwise_decay": 0.9,
        "multi_tensor_optim": True,
        "fused": None,
        "adamw_beta1": 0.9,
        "adamw_beta2": 0.999,
    },
    "schedules": None,
    "checkpointing": {"period": 3750, "max_to_keep": 3, "keep_every": None, "asynchronous": False},
    "evaluation": {
        "eval_period_iterations": 12500,
        "train_dataset_path": "",
        "test_dataset_path": "",
        "crop_size": 224,
        "batch_size": 64,
        "num_workers": 0,
        "pictures_path": "",
        "pictures": 6,
    },
    "text": {  # of dino.txt, which the official package trains elsewhere (docs/spec.md 5.8)
        "enabled": False,
        "backbone": "",
        "vocabulary": "",
        "vocab_size": 49408,
        "context_length": 77,
        "dim": 1280,
        "depth": 24,
        "dropout": 0.0,
        "head_depth": 2,
        "drop_path_rate": 0.3,
        "max_logit_scale": 100.0,
    },
}


@pytest.mark.parametrize("group", GROUPS)
def test_official_defaults(group: str) -> None:
    assert OmegaConf.to_container(get_default_config())[group] == GROUPS[group]


def test_there_are_no_other_groups() -> None:
    assert sorted(OmegaConf.to_container(get_default_config())) == sorted(GROUPS)


def test_keys_are_attributes_and_every_call_makes_a_new_configuration() -> None:
    config = get_default_config()
    config.student.arch = "vit_base"
    config.student.patch_size = 8
    assert (config.student.arch, config["student"]["patch_size"]) == ("vit_base", 8)
    assert get_default_config().student.arch == "vit_large"


def test_a_misspelt_key_is_an_error() -> None:
    config = get_default_config()
    with pytest.raises(ConfigAttributeError, match="n_registers"):
        config.student.n_registers = 4
    with pytest.raises(ConfigAttributeError, match="studnet"):
        _ = config.studnet
    with pytest.raises(ConfigKeyError, match="archh"):
        OmegaConf.merge(config, {"student": {"archh": "vit_base"}})


def test_a_value_of_another_type_is_an_error() -> None:
    config = get_default_config()
    with pytest.raises(ValidationError, match="sixteen"):
        config.student.patch_size = "sixteen"
    with pytest.raises(ValidationError):
        config.student.n_storage_tokens = None


def test_yaml_round_trip_and_command_line_overrides() -> None:
    config = get_default_config()
    again = OmegaConf.merge(get_default_config(), OmegaConf.create(OmegaConf.to_yaml(config)))
    assert again == config
    overridden = OmegaConf.merge(
        config, OmegaConf.from_dotlist(["student.arch=vit_7b", "student.patch_size=14"])
    )
    assert (overridden.student.arch, overridden.student.patch_size) == ("vit_7b", 14)
