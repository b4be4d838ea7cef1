"""Check a configuration: allowed values, and values that contradict each other (docs/spec.md 4.2, 4.7)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

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
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHARED = {"student": ("patch_size", "in_chans"), "optim": ("epochs",)}  # must be equal for all students
COMMON = (
    "optim.epochs",
    "schedules.teacher_temp",
    "teacher",
)  # must be equal, also if their own files set it
# What the file of a student may set for itself; all else is common to all students.
OF_A_STUDENT = re.compile(r"(student|optim|schedules)\b.*|train\.(checkpointing|checkpointing_full|compile)")
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
        if (value := OmegaConf.select(config, key)) not in choices:
            raise ConfigError(f"{key} is {value!r}; wanted one of {', '.join(choices)}")
    for key in POSITIVE:
        if (value := OmegaConf.select(config, key)) < 1:
            raise ConfigError(f"{key} is {value}; wanted a positive integer")
    _check_crops(config.crops)
    for is_broken, message in _rules_of_gram(config) if config.gram.use_loss else ():
        if is_broken:
            raise ConfigError(f"gram: {message}")
    for is_broken, message in _rules(config):
        if is_broken:
            raise ConfigError(message)
    for is_broken, message in _rules_of_text(config) if config.text.enabled else ():
        if is_broken:
            raise ConfigError(f"text: {message}")
    if config.multidistillation.enabled:
        _check_students(config.multidistillation.students)
    if config.distillation.enabled:  # a model for inference accepts any size
        scale = config.crops.teacher_to_student_resolution_scale
        check_global_crops(config.crops, config.student.arch, "the student", scale)
        check_local_crops(config.crops, config.student.arch, scale)


def check_ready(config: Any) -> None:
    """Check what a training needs beyond a configuration that can be read. Raises `ConfigError`."""
    gram = config.gram
    if config.student.fp8_enabled:
        raise ConfigError(
            "student.fp8_enabled is true; fp8 training is not implemented: set student.fp8_enabled=false, "
            "bf16 trains the same model"
        )
    if gram.use_loss and not gram.ema_teacher and not gram.ckpt and gram.it_load_ema_teacher < 0:
        raise ConfigError(
            "gram: a Gram teacher needs gram.ckpt, or gram.it_load_ema_teacher=0 to start as the EMA teacher"
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


def _rules(config: Any) -> Iterator[tuple[Any, str]]:
    """(whether it is broken, error message) of each rule that compares several keys."""
    dino, student = config.dino, config.student
    distillation, evaluation = config.distillation, config.evaluation
    scale = config.crops.teacher_to_student_resolution_scale
    yield (
        scale < 1 or (scale != 1 and not distillation.enabled),
        f"crops.teacher_to_student_resolution_scale is {scale:g}; wanted 1, or more with "
        "distillation.enabled: the student's crops are smaller than the teacher's by this factor",
    )
    batch = config.train.batch_size_per_gpu
    yield (
        dino.koleo_loss_weight and not dino.koleo_loss_distributed and batch <= dino.koleo_topk,
        f"train.batch_size_per_gpu is {batch}; KoLeo compares each image with dino.koleo_topk="
        f"{dino.koleo_topk} others: wanted at least {dino.koleo_topk + 1}, or dino.koleo_loss_weight=0",
    )
    yield (
        distillation.enabled and not (distillation.full_cfg_path and distillation.checkpoint_path),
        "distillation.enabled needs distillation.full_cfg_path (the teacher's configuration) and "
        "distillation.checkpoint_path (its weights, or 'ignore' for random ones)",
    )
    precision = config.compute_precision
    yield (
        precision.shard_ranks is not None
        and (precision.shard_ranks < 1 or precision.sharding_strategy == "NO_SHARD"),
        f"compute_precision.shard_ranks is {precision.shard_ranks} with sharding_strategy="
        f"{precision.sharding_strategy}; wanted a positive number of ranks and SHARD_GRAD_OP or FULL_SHARD",
    )
    yield (
        config.multidistillation.enabled and not distillation.enabled,
        "multidistillation.enabled needs distillation.enabled=true: the students share its teacher",
    )
    yield (
        bool(evaluation.train_dataset_path) != bool(evaluation.test_dataset_path),
        "evaluation.train_dataset_path or evaluation.test_dataset_path is missing; kNN needs both",
    )
    yield (
        evaluation.eval_period_iterations < 0,
        f"evaluation.eval_period_iterations is {evaluation.eval_period_iterations}; wanted a number of "
        "iterations, or 0 for never",
    )
    stride, size = _stride(student.arch, student.patch_size), evaluation.crop_size
    enabled = evaluation.train_dataset_path or evaluation.pictures_path
    yield (
        enabled and (size < stride or size % stride),
        f"evaluation.crop_size is {size}; wanted a multiple of {stride} "
        "(student.patch_size, 32 for a ConvNeXt)",
    )
    yield (
        student.pretrained_weights and student.resume_from_teacher_chkpt,
        "student.pretrained_weights and student.resume_from_teacher_chkpt are both given; choose one",
    )


def _rules_of_gram(config: Any) -> Iterator[tuple[Any, str]]:
    """As `_rules`, if there is a Gram loss."""
    gram, ema, arch = config.gram, config.gram.ema_teacher, config.student.arch
    has_crops = config.crops.gram_teacher_crops_size is not None
    yield (
        arch in CONVNEXTS,
        f"Gram anchoring is not tested with {arch}, whose patches have another size; set gram.use_loss=false",
    )
    yield ema and gram.ckpt, "ema_teacher and gram.ckpt are both given; choose one"
    yield ema and gram.rep_update, "ema_teacher needs no updates; set gram.rep_update=false"
    yield ema and has_crops, "ema_teacher uses the global crops; remove crops.gram_teacher_crops_size"
    yield not ema and not has_crops, "a Gram teacher needs crops.gram_teacher_crops_size"
    yield (
        gram.tokens_used != "all" and gram.img_level,
        f"tokens_used={gram.tokens_used} selects tokens of the whole batch; set gram.img_level=false",
    )
    yield (
        gram.remove_neg and gram.remove_only_teacher_neg,
        "remove_neg and remove_only_teacher_neg are both true; choose one",
    )


def _rules_of_text(config: Any) -> Iterator[tuple[Any, str]]:
    """As `_rules`, if texts are aligned."""
    text, strategy = config.text, config.compute_precision.sharding_strategy
    yield not text.backbone, "text.backbone is empty; wanted the file of a backbone, which stays frozen"
    yield not text.vocabulary, "text.vocabulary is empty; wanted bpe_simple_vocab_16e6.txt.gz of CLIP"
    yield (
        config.distillation.enabled or config.gram.use_loss,
        "there is no distillation and no Gram loss; set distillation.enabled=false and gram.use_loss=false",
    )
    yield (
        strategy != "NO_SHARD",
        f"compute_precision.sharding_strategy is {strategy}; wanted NO_SHARD: the backbone is frozen",
    )
    yield (
        text.max_logit_scale <= 1,
        f"text.max_logit_scale is {text.max_logit_scale}; wanted more than 1",
    )
    evaluation = config.evaluation
    yield (
        evaluation.train_dataset_path or evaluation.pictures_path,
        "evaluations are of a teacher, which this training lacks; remove evaluation.*_path",
    )


def _check_students(students: Any) -> None:
    """Raise `ConfigError` for students that cannot train together."""
    names = [entry.name for entry in students]
    if not names or len(set(names)) < len(names) or not all(map(NAME.fullmatch, names)):
        raise ConfigError(
            f"multidistillation.students are named {names}; wanted at least one, each with a unique name "
            "of letters, digits, '.', '_' and '-' (it names a folder)"
        )
    for entry in students:
        for group, keys in SHARED.items():
            if chosen := [key for key in keys if key in entry[group]]:
                raise ConfigError(
                    f"multidistillation.students: {entry.name} sets {group}.{chosen[0]}, which must be equal "
                    f"for all students; set {group}.{chosen[0]} of the run"
                )


def check_common(configs: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if students that train together differ in what they must have in common."""
    for key in COMMON:
        values = {name: OmegaConf.select(own, key) for name, own in configs.items()}
        first = next(iter(values), "")
        for name, value in values.items():
            if value != values[first]:
                raise ConfigError(
                    f"multidistillation.students: {key} is {value} for {name} and {values[first]} for "
                    f"{first}; it must be equal for all students"
                )


def set_global_batch(config: Any, world_size: int) -> None:
    """Divide `multidistillation.global_batch_size` over the ranks. Raises `ConfigError` if it cannot be."""
    total = config.multidistillation.global_batch_size
    if not config.multidistillation.enabled or total is None:
        return
    parts = world_size * config.train.accumulation_steps
    if total < parts or total % parts:
        raise ConfigError(
            f"multidistillation.global_batch_size is {total}; wanted a multiple of {parts} "
            "(ranks times train.accumulation_steps)"
        )
    config.train.batch_size_per_gpu = total // parts


def check_global_crops(crops: Any, arch: str, who: str, scale: float = 1.0) -> None:
    """Raise `ConfigError` if the patches of a ConvNeXt do not cover the global crops (docs/spec.md 2.19).

    They are resized to a ViT's grid, which is only correct if they cover the crop to its edges.
    who: subject of the error message. scale: factor by which crops are made smaller for the model.
    """
    stride = _stride(arch)
    for size in _sizes(crops.global_crops_size):
        if int(size / scale) % stride:
            raise ConfigError(
                f"crops.global_crops_size is {size}, of which {who} {arch} sees {int(size / scale)} px; "
                f"wanted a multiple of its stride ({stride}) after scaling"
            )


def check_local_crops(crops: Any, arch: str, scale: float) -> None:
    """Raise `ConfigError` for crops smaller than one patch. Only their mean is used: edges may be cut off."""
    stride = _stride(arch)
    for size in _sizes(crops.local_crops_size):
        if int(size / scale) < stride:
            raise ConfigError(
                f"crops.local_crops_size is {size}, of which {arch} sees {int(size / scale)} px; wanted at "
                f"least its stride ({stride}) after scaling"
            )


def _stride(arch: str, of_vit: int = 1) -> int:
    """Pixels per patch side."""
    return CONVNEXTS[arch].stride if arch in CONVNEXTS else of_vit


def _sizes(value: Any) -> list[Any]:
    return [value] if isinstance(value, (int, float)) else list(value)
