"""Configuration of the run: precision, optimiser, schedules, checkpoints, evaluation.

Source: docs/spec.md 4.1, rows "train" to "schedules".
"""
# ruff: noqa: UP045  (OmegaConf evaluates these annotations, on 3.10 too)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from dinov3_ref.configs.losses import Ramp

N_GLOBAL_CROPS = 2  # per image; not configurable, the loss weights assume two (docs/spec.md 4.3)


@dataclass
class ComputePrecision:
    """Dtypes of products and of gradient reductions; DDP or FSDP (`train/distributed/data_parallel.py`)."""

    param_dtype: str = "bf16"  # fp32 | bf16 | fp16
    reduce_dtype: str = "fp32"
    sharding_strategy: str = "SHARD_GRAD_OP"  # FSDP2: SHARD_GRAD_OP | FULL_SHARD; DDP: NO_SHARD


@dataclass
class Train:
    """One run: data, batches, checkpointing, logs."""

    dataset_path: str = ""
    output_dir: str = "."
    seed: int = 0
    batch_size_per_gpu: int = 64
    accumulation_steps: int = 1  # batches per step, whose gradients are averaged
    num_workers: int = 10
    OFFICIAL_EPOCH_LENGTH: int = 1250  # iterations per epoch, in all schedules
    centering: str = "sinkhorn_knopp"  # or softmax_center
    checkpointing: bool = False  # recompute blocks in the backward pass, except products and attention
    checkpointing_full: bool = False  # recompute blocks completely
    compile: bool = True
    log_period: int = 10  # iterations between metrics records
    tensorboard: bool = True  # also write TensorBoard scalars, if it is installed


@dataclass
class Optim:
    """AdamW and its schedules (docs/spec.md 4.9 v1, 4.10)."""

    epochs: int = 100
    lr: float = 1.0e-3
    warmup_epochs: int = 10
    min_lr: float = 1.0e-6
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    schedule_trunc_extra: float = 0.0
    clip_grad: float = 3.0  # per sub-module; 0 for none
    freeze_last_layer_epochs: int = 1
    scaling_rule: str = "sqrt_wrt_1024"  # sqrt_wrt_1024 | linear_wrt_256 | none
    patch_embed_lr_mult: float = 0.2
    dino_head_wd_multiplier: float = 1.0
    layerwise_decay: float = 0.9
    multi_tensor_optim: bool = True
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.999


@dataclass
class LrRamp(Ramp):
    """Learning rate: the scaling rule applies to `peak` and `end`, not to `start`."""

    freeze_last_layer_epochs: int = 0


@dataclass
class Schedules:
    """v2 schedules; if given, they replace those of `optim` and `teacher` (docs/spec.md 4.9)."""

    lr: LrRamp = field(default_factory=LrRamp)
    weight_decay: Ramp = field(default_factory=Ramp)
    momentum: Ramp = field(default_factory=Ramp)
    teacher_temp: Ramp = field(default_factory=Ramp)


@dataclass
class Checkpointing:
    """Iterations between checkpoints and how many to keep; every `keep_every`-th is never deleted."""

    period: int = 3750
    max_to_keep: int = 3
    keep_every: Optional[int] = None


@dataclass
class Evaluation:
    """Evaluation of the teacher every `eval_period_iterations` and after the last iteration; 0 for never.

    kNN accuracy on labelled datasets (train and test), as `dinov3_ref.eval.knn` computes it; PCA images of
    the first `pictures` images of `pictures_path`. Datasets are given as in train.dataset_path.
    """

    eval_period_iterations: int = 12500
    train_dataset_path: str = ""
    test_dataset_path: str = ""
    crop_size: int = 224  # side of the evaluated images in pixels
    batch_size: int = 64
    num_workers: int = 0
    pictures_path: str = ""
    pictures: int = 6
