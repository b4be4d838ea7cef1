"""Keys of official configuration files that have no place in ours.

Source: docs/spec.md 4.1, marked U, and asserted ones.

An official file is accepted as it is: what it says there is dropped where nothing ever read it, and held
against the one value that works where it was asserted.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinov3_ref.errors import ConfigError

# Read by nothing in the official code, or about a launcher that is not ours.
UNREAD = (
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

SEVERAL = "several students at once are asked for with multidistillation.students (docs/training.md)"

# Key -> values that mean what this code does; another value is an error with the reason.
ONE_WAY: dict[str, tuple[tuple[Any, ...], str]] = {
    "MODEL.META_ARCHITECTURE": (("SSLMetaArch",), SEVERAL),
    "dino.koleo_distributed_replicas": ((0,), "replaced by koleo_distributed_loss_group_size"),
    "ibot.separate_head": ((True,), "no other was ever accepted"),
    "student.fp8_enabled": ((False,), "fp8 training is not built; bf16 trains the same model"),
    "train.cudagraphs": ((False,), "CUDA graphs are not built; train.compile is the larger part"),
}


def drop_official_keys(given: DictConfig) -> list[str]:
    """Remove those keys from `given`, in place; the names of those dropped unread.

    Raises `ConfigError` for a value that asks for what is not there.
    """
    for key, (accepted, reason) in ONE_WAY.items():
        value = OmegaConf.select(given, key)
        if value is not None and value not in accepted:
            raise ConfigError(f"{key} is {value!r}; wanted {accepted[0]!r}: {reason}")
        _remove(given, key)
    dropped = [key for key in UNREAD if _remove(given, key)]
    groups = ["MODEL"]  # nothing but the keys above
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
