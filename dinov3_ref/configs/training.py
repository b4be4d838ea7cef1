"""Configuration of the run: optimiser, schedules, checkpoints.

Source: docs/spec.md 4.1, rows "train" to "schedules".
"""
# ruff: noqa: UP045  (OmegaConf evaluates these annotations, on 3.10 too)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from dinov3_ref.configs.losses import Ramp

N_GLOBAL_CROPS = 2  # of every picture; no setting: the losses' shares are written for two (docs/spec.md 4.3)


@dataclass
class ComputePrecision:
    """Types of forward products and of gradient sums between ranks, and what ranks share (`parallel.py`)."""

    param_dtype: str = "bf16"  # fp32 | bf16 | fp16
    reduce_dtype: str = "fp32"
    sharding_strategy: str = "SHARD_GRAD_OP"  # or FULL_SHARD, or NO_SHARD for replicas


@dataclass
class Train:
    """One run. The two names in capitals are the official ones."""

    dataset_path: str = ""
    output_dir: str = "."
    seed: int = 0
    batch_size_per_gpu: int = 64
    accumulation_steps: int = 1  # batches whose gradients are averaged into one step
    num_workers: int = 10
    OFFICIAL_EPOCH_LENGTH: int = 1250  # iterations in what all schedules call an epoch
    centering: str = "sinkhorn_knopp"  # or softmax_center
    checkpointing: bool = False  # recompute blocks in the backward pass, keeping products and attention
    checkpointing_full: bool = False  # ... keeping nothing
    compile: bool = True
    log_period: int = 10  # iterations between lines of metrics
    tensorboard: bool = True  # metrics as TensorBoard's scalars too, where it is installed


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
    """Learning rate: `peak` and `end` go by the scaling rule, `start` does not."""

    freeze_last_layer_epochs: int = 0


@dataclass
class Schedules:
    """v2 schedules; where the group is given they replace those of `optim` and `teacher`.

    Source: docs/spec.md 4.9.
    """

    lr: LrRamp = field(default_factory=LrRamp)
    weight_decay: Ramp = field(default_factory=Ramp)
    momentum: Ramp = field(default_factory=Ramp)
    teacher_temp: Ramp = field(default_factory=Ramp)


@dataclass
class Checkpointing:
    """Iterations between checkpoints, and how many stay. Every `keep_every`-th is never deleted."""

    period: int = 3750
    max_to_keep: int = 3
    keep_every: Optional[int] = None


@dataclass
class Evaluation:
    """What is looked at every so many iterations, and after the last; 0 for never.

    kNN of the teacher on labelled datasets (both or neither), as `dinov3_ref.eval.knn` does it; PCA maps of
    the first `pictures` of another. Datasets are named as train.dataset_path is.
    """

    eval_period_iterations: int = 12500
    train_dataset_path: str = ""
    test_dataset_path: str = ""
    crop_size: int = 224  # side of the evaluated pictures in pixels
    batch_size: int = 64
    num_workers: int = 0
    pictures_path: str = ""
    pictures: int = 6
