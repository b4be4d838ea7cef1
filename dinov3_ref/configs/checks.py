"""Check a configuration: allowed values, and values that contradict each other (docs/spec.md 4.2, 4.7)."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from dinov3_ref.configs.crop_sizes import check_global_crops, check_local_crops, stride_in_config
from dinov3_ref.configs.students import check_students
from dinov3_ref.errors import ConfigError
from dinov3_ref.models.released import CONVNEXTS

CHOICES: dict[str, tuple[str, ...]] = {
    "train.centering": ("sinkhorn_knopp", "softmax_center"),
    "gram.tokens_used": ("all", "masked", "unmasked"),
    "gram.global_teacher_resize_method": ("bicubic", "bilinear", "nearest", "area"),
    "optim.scaling_rule": ("sqrt_wrt_1024", "linear_wrt_256", "none"),
    "compute_precision.param_dtype": ("fp32", "bf16", "fp16"),
    "compute_precision.reduce_dtype": ("fp32", "bf16", "fp16"),
    "compute_precision.sharding_strategy": ("SHARD_GRAD_OP", "FULL_SHARD", "NO_SHARD"),
}
POSITIVE = (
    "train.batch_size_per_gpu",
    "train.accumulation_steps",
    "train.OFFICIAL_EPOCH_LENGTH",
    "train.log_period",
    "checkpointing.period",
    "checkpointing.max_to_keep",
    "optim.epochs",
    "gram.update_frequency",
    "dino.head_n_prototypes",
    "ibot.head_n_prototypes",
    "evaluation.batch_size",
    "evaluation.pictures",
)


def check_config(config: Any) -> None:
    """Raises `ConfigError` for the first contradiction, in one line."""
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(
            f"{missing[0]} has no value; wanted {missing[0]}=... on the command line or in the file"
        )
    for key, choices in CHOICES.items():
        if _value(config, key) not in choices:
            raise ConfigError(f"{key} is {_value(config, key)!r}; wanted one of {', '.join(choices)}")
    for key in POSITIVE:
        if _value(config, key) < 1:
            raise ConfigError(f"{key} is {_value(config, key)}; wanted a positive integer")
    _check_crops(config.crops)
    _check_gram(config)
    scale = config.crops.teacher_to_student_resolution_scale
    if scale < 1 or (scale != 1 and not config.distillation.enabled):
        raise ConfigError(
            f"crops.teacher_to_student_resolution_scale is {scale:g}; wanted 1, or more with "
            "distillation.enabled: the student's crops are smaller than the teacher's by this factor"
        )
    if config.distillation.enabled and not (
        config.distillation.full_cfg_path and config.distillation.checkpoint_path
    ):
        raise ConfigError(
            "distillation.enabled needs distillation.full_cfg_path (the teacher's configuration) and "
            "distillation.checkpoint_path (its weights, or 'ignore' for random ones)"
        )
    check_students(config)
    _check_evaluation(config)
    student = config.student
    if config.distillation.enabled:  # a model for inference accepts any size
        check_global_crops(config.crops, student.arch, "the student", scale)
        check_local_crops(config.crops, student.arch, scale)
    if student.pretrained_weights and student.resume_from_teacher_chkpt:
        raise ConfigError(
            "student.pretrained_weights and student.resume_from_teacher_chkpt are both given; choose one"
        )


def _check_crops(crops: Any) -> None:
    jitter = list(crops.color_jitter)
    if len(jitter) != 4 or min(jitter) < 0 or jitter[-1] > 0.5:
        raise ConfigError(
            f"crops.color_jitter is {jitter}; wanted four strengths: brightness, contrast, saturation, hue "
            "(at most 0.5)"
        )
    sizes = crops.global_crops_size
    if isinstance(sizes, (int, float)):
        return
    for name in ("local_crops_size", "gram_teacher_crops_size", "global_local_crop_pairs_ratios"):
        values = crops[name]
        if values is not None and (isinstance(values, (int, float)) or len(values) != len(sizes)):
            raise ConfigError(
                f"crops.{name} is {values}, crops.global_crops_size has {len(sizes)} sizes; "
                "wanted a list of that length"
            )


def _check_evaluation(config: Any) -> None:
    evaluation, stride = config.evaluation, stride_in_config(config.student)
    if bool(evaluation.train_dataset_path) != bool(evaluation.test_dataset_path):
        raise ConfigError(
            "evaluation.train_dataset_path or evaluation.test_dataset_path is missing; kNN needs both"
        )
    if evaluation.eval_period_iterations < 0:
        raise ConfigError(
            f"evaluation.eval_period_iterations is {evaluation.eval_period_iterations}; wanted a number of "
            "iterations, or 0 for never"
        )
    enabled = evaluation.train_dataset_path or evaluation.pictures_path
    if enabled and (evaluation.crop_size < stride or evaluation.crop_size % stride):
        raise ConfigError(
            f"evaluation.crop_size is {evaluation.crop_size}; wanted a multiple of {stride} "
            "(student.patch_size, 32 for a ConvNeXt)"
        )


def _check_gram(config: Any) -> None:
    gram, crops = config.gram, config.crops
    if not gram.use_loss:
        return
    own_teacher = not gram.ema_teacher
    broken = (
        (
            config.student.arch in CONVNEXTS,
            f"Gram anchoring is not tested with {config.student.arch}, whose patches have another size; set "
            "gram.use_loss=false",
        ),
        (gram.ema_teacher and gram.ckpt, "ema_teacher and gram.ckpt are both given; choose one"),
        (gram.ema_teacher and gram.rep_update, "ema_teacher needs no updates; set gram.rep_update=false"),
        (
            gram.ema_teacher and crops.gram_teacher_crops_size is not None,
            "ema_teacher uses the global crops; remove crops.gram_teacher_crops_size",
        ),
        (
            own_teacher and crops.gram_teacher_crops_size is None,
            "a Gram teacher needs crops.gram_teacher_crops_size",
        ),
        (
            own_teacher and not gram.ckpt and gram.it_load_ema_teacher < 0,
            "a Gram teacher needs gram.ckpt, or gram.it_load_ema_teacher=0 to start as the EMA teacher",
        ),
        (
            gram.tokens_used != "all" and gram.img_level,
            f"tokens_used={gram.tokens_used} selects tokens of the whole batch; set gram.img_level=false",
        ),
        (
            gram.remove_neg and gram.remove_only_teacher_neg,
            "remove_neg and remove_only_teacher_neg are both true; choose one",
        ),
    )
    for is_broken, message in broken:
        if is_broken:
            raise ConfigError(f"gram: {message}")


def _value(config: Any, key: str) -> Any:
    group, name = key.split(".")
    return config[group][name]
