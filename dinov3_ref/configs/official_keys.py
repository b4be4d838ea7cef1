"""Keys of official configuration files that this package does not have, so that they can be read unchanged.

Source: docs/spec.md 4.1, keys marked U and asserted keys, and the published files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinov3_ref.errors import ConfigError

# Never read by the official code, or about its launcher. A group stands for all of its keys.
UNUSED = (
    "MODEL",
    "hrft",
    "coding_rate_loss",
    "dino.head_norm_last_layer",
    "dino.koleo_distributed_loss_group_data",
    "dino.koleo_distributed_replicas",
    "dino.force_weight_norm",
    "evaluation.config_files",
    "evaluation.low_freq_every",
    "ibot.force_masking_even_with_zero_weight",
    "ibot.head_norm_last_layer",
    "ibot.separate_head",
    "optim.optimizer",
    "optim.dump_fsdp_weights_path",
    "student.block_chunks",
    "student.cls_pos_embedding",
    "student.drop_path_shape",
    "student.drop_path_uniform",
    "student.fourier_embeddings",
    "student.fourier_encoding_dim",
    "student.fp8_filter",
    "student.init_std_cls",
    "student.init_std_reg",
    "student.interpolate_antialias",
    "student.interpolate_offset",
    "student.mask_attention",
    "student.mask_register_attention",
    "student.multiple_pos_embeddings",
    "student.patch_drop",
    "student.pos_embed_grid_size",
    "student.pos_embed_rope_gamma",
    "student.pos_embed_rope_init_multi_frequencies",
    "student.pos_embed_type",
    "student.reg_pos_embedding",
    "student.rescale_weights_by_layer_id",
    "student.sin_cos_embeddings",
    "teacher.in_chans",
    "train.cache_dataset",
    "train.cell_augmentation",
    "train.cell_augmentation_type",
    "train.chunk_schedule",
    "train.cudagraphs",
    "train.data_config",
    "train.learn_from_teacher_tokens",
    "train.monitor_gradient_norm",
    "train.saveckp_freq",
    "train.sharded_eval_checkpoint",
    "train.use_teacher_head",
)

# Keys that act here, and that the official code never reads: in an official file they change nothing.
UNREAD = (
    "student.ffn_ratio",
    "student.in_chans",
    "student.pos_embed_rope_dtype",
    "student.pretrained_weights",
)

# key -> (supported values, why no others)
ONE_VALUE: dict[str, tuple[tuple[Any, ...], str]] = {
    "MODEL.META_ARCHITECTURE": (("SSLMetaArch", "MultiDistillationMetaArch"), "others are not published"),
    "dino.koleo_distributed_replicas": ((0,), "replaced by koleo_distributed_loss_group_size"),
    "ibot.separate_head": ((True,), "the official code accepts no other value"),
    "student.patch_drop": ((0,), "the official code has no other value"),
    "train.cell_augmentation": ((False,), "the augmentations of cell images are not implemented"),
    "train.cudagraphs": ((False,), "CUDA graphs are not implemented; use train.compile"),
}

# Which keys of `optim` and `teacher` are null where `schedules` replaces them.
REPLACED = ("optim", "teacher")


def check_official_values(given: DictConfig) -> None:
    """Check the official keys of a file and the command line together. Raises `ConfigError`."""
    for key, (accepted, reason) in ONE_VALUE.items():
        value = OmegaConf.select(given, key)
        if value is not None and value not in accepted:
            raise ConfigError(f"{key} is {value!r}; wanted {accepted[0]!r}: {reason}")
    architecture = OmegaConf.select(given, "MODEL.META_ARCHITECTURE")
    several = OmegaConf.select(given, "multidistillation.enabled")
    if (architecture == "MultiDistillationMetaArch") > bool(several):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {architecture!r}, multidistillation.enabled is {several!r}; wanted "
            "true for both or neither"
        )


def drop_official_keys(given: DictConfig) -> list[str]:
    """Remove the official keys that do nothing from the configuration of a file or a command line, in place.

    Returns their names. A file with one of them counts as official: then keys that the official code never
    reads do nothing either.
    """
    dropped = [name for key in UNUSED for name in _pop(given, key)]
    if dropped:
        dropped += [name for key in UNREAD for name in _pop(given, key)]
    if given.get("schedules") is not None:
        for group in REPLACED:
            values = given.get(group) or {}
            for name in [name for name, value in values.items() if value is None]:
                values.pop(name)
    if OmegaConf.select(given, "train.dataset_path", default="") is None:
        given.train.pop("dataset_path")
    return dropped


def _pop(given: DictConfig, key: str) -> Iterator[str]:
    parent_key, _, name = key.rpartition(".")
    parent = OmegaConf.select(given, parent_key) if parent_key else given
    if isinstance(parent, DictConfig) and name in parent:
        yield key
        parent.pop(name)
