"""Keys of official configuration files that this package does not have, so that they can be read unchanged.

Source: docs/spec.md 4.1, keys marked U and asserted keys.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinov3_ref.errors import ConfigError

# Never read by the official code, or about its launcher.
UNUSED = (
    "MODEL.DEVICE",
    "MODEL.DTYPE",
    "MODEL.WEIGHTS",
    "dino.head_norm_last_layer",
    "dino.koleo_distributed_loss_group_data",
    "dino.force_weight_norm",
    "ibot.force_masking_even_with_zero_weight",
    "ibot.head_norm_last_layer",
    "train.saveckp_freq",
    "train.monitor_gradient_norm",
    "train.chunk_schedule",
    "train.use_teacher_head",
    "train.learn_from_teacher_tokens",
    "train.data_config",
    "train.sharded_eval_checkpoint",
    "train.cache_dataset",
    "student.pos_embed_type",
    "student.fp8_filter",
    "optim.optimizer",
    "optim.dump_fsdp_weights_path",
    "hrft",
    "evaluation.config_files",
)

USE_STUDENTS = "to train several students use multidistillation.students (docs/training.md)"

# key -> (supported values, why no others)
ONE_VALUE: dict[str, tuple[tuple[Any, ...], str]] = {
    "MODEL.META_ARCHITECTURE": (("SSLMetaArch",), USE_STUDENTS),
    "dino.koleo_distributed_replicas": ((0,), "replaced by koleo_distributed_loss_group_size"),
    "ibot.separate_head": ((True,), "the official code accepts no other value"),
    "student.fp8_enabled": ((False,), "fp8 training is not implemented; bf16 trains the same model"),
    "train.cudagraphs": ((False,), "CUDA graphs are not implemented; use train.compile"),
}


def drop_official_keys(given: DictConfig) -> None:
    """Remove these keys from `given`, in place. Raises `ConfigError` for unsupported values."""
    for key, (accepted, reason) in ONE_VALUE.items():
        value = OmegaConf.select(given, key)
        if value is not None and value not in accepted:
            raise ConfigError(f"{key} is {value!r}; wanted {accepted[0]!r}: {reason}")
    groups = ["MODEL"]  # has only the keys above
    if OmegaConf.select(given, "multidistillation.enabled") is False:
        groups.append("multidistillation")
    for key in (*ONE_VALUE, *UNUSED, *groups):
        parent_key, _, name = key.rpartition(".")
        parent = OmegaConf.select(given, parent_key) if parent_key else given
        if isinstance(parent, DictConfig):
            parent.pop(name, None)
