"""Keys of official configuration files that this package does not have.

Source: docs/spec.md 4.1, keys marked U and asserted keys.

Official files can be read unchanged: keys that the official code never reads are dropped, and keys with only
one supported value are checked.
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


def drop_official_keys(given: DictConfig) -> list[str]:
    """Remove these keys from `given`, in place; return the names of the unused ones.

    Raises `ConfigError` for unsupported values.
    """
    for key, (accepted, reason) in ONE_VALUE.items():
        value = OmegaConf.select(given, key)
        if value is not None and value not in accepted:
            raise ConfigError(f"{key} is {value!r}; wanted {accepted[0]!r}: {reason}")
        _remove(given, key)
    dropped = [key for key in UNUSED if _remove(given, key)]
    groups = ["MODEL"]  # has only the keys above
    if OmegaConf.select(given, "multidistillation.enabled") is False:
        groups.append("multidistillation")
    return dropped + [group for group in groups if _remove(given, group)]


def _remove(given: DictConfig, key: str) -> bool:
    parent_key, _, name = key.rpartition(".")
    parent = OmegaConf.select(given, parent_key) if parent_key else given
    if not isinstance(parent, DictConfig) or name not in parent:
        return False
    del parent[name]
    return True
