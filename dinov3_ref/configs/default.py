"""The default configuration: official keys and values, without keys that the official code never reads.

Source: docs/spec.md 4.1. An OmegaConf structured config: `config.student.arch = "vit_base"` works, a misspelt
key is an error.
"""
# ruff: noqa: UP045  (OmegaConf evaluates these annotations, on 3.10 too)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import MISSING, OmegaConf


@dataclass
class Ramp:
    """Schedule v2: linear from `start` to `peak`, cosine to `end`, then constant (docs/spec.md 4.9).

    cosine_epochs: length of the cosine; None means all epochs after the warm-up.
    """

    start: float = MISSING
    peak: float = MISSING
    end: float = MISSING
    warmup_epochs: int = 0
    cosine_epochs: Optional[int] = None


@dataclass
class Head:
    """Sizes of a `DINOHead` (docs/spec.md 2.12)."""

    head_n_prototypes: int = 65536
    head_bottleneck_dim: int = 256
    head_nlayers: int = 3
    head_hidden_dim: int = 2048


@dataclass
class Dino(Head):
    """DINO and KoLeo losses on CLS tokens (docs/spec.md 4.4, 4.6)."""

    loss_weight: float = 1.0
    global_ignore_diagonal: bool = True
    koleo_loss_weight: float = 0.1  # multiplied by the two global crops (docs/spec.md 0, fact 12)
    koleo_loss_distributed: bool = False
    koleo_topk: int = 1
    koleo_distributed_loss_group_size: Optional[int] = None
    reweight_dino_local_loss: bool = False
    local_loss_weight_schedule: Ramp = field(default_factory=lambda: Ramp(0.5, 0.5, 0.5))


@dataclass
class Ibot(Head):
    """iBOT loss on masked patches, and the masks (docs/spec.md 4.5, 4.13)."""

    loss_weight: float = 1.0
    mask_sample_probability: float = 0.5
    mask_ratio_min_max: list[float] = field(default_factory=lambda: [0.1, 0.5])
    mask_random_circular_shift: bool = False


@dataclass
class Gram:
    """Gram anchoring (docs/spec.md 4.7). Keys with `it_` are iterations; -1 means never."""

    use_loss: bool = False
    compute_stats: bool = False
    loss_weight: float = 1.0
    loss_weight_schedule: Optional[Ramp] = None
    ema_teacher: bool = False
    ckpt: Optional[str] = None
    it_load_ema_teacher: int = -1
    rep_update: bool = True
    update_frequency: int = 50000
    it_first_update: int = 0
    max_updates: Optional[int] = None
    normalized: bool = True
    img_level: bool = False
    remove_neg: bool = False
    remove_only_teacher_neg: bool = False
    tokens_used: str = "all"  # all | masked | unmasked
    global_teacher_resize_method: str = "bicubic"
    global_teacher_resize_antialias: bool = False


@dataclass
class Teacher:
    """The EMA teacher's momentum and temperature (docs/spec.md 4.9, v1)."""

    momentum_teacher: float = 0.992
    final_momentum_teacher: float = 1.0
    warmup_teacher_temp: float = 0.04
    teacher_temp: float = 0.07
    warmup_teacher_temp_epochs: int = 30


@dataclass
class Distillation:
    """A frozen teacher: its configuration file, and its teacher.pth or "ignore" for random weights."""

    enabled: bool = False
    full_cfg_path: str = ""
    checkpoint_path: str = ""


@dataclass
class Student:
    """The model. Defaults are those of official training, not of released models (docs/spec.md 1.3, 4.1)."""

    arch: str = "vit_large"
    embed_dim: Optional[int] = None  # None here and in the next six: the value of the architecture
    depth: Optional[int] = None
    num_heads: Optional[int] = None
    depths: Optional[list[int]] = None  # of a ConvNeXt, instead of the three above: blocks per stage
    dims: Optional[list[int]] = None  # of a ConvNeXt: channels per stage
    ffn_layer: Optional[str] = None
    ffn_ratio: Optional[float] = None
    patch_size: int = 16
    in_chans: int = 3
    drop_path_rate: float = 0.3
    layerscale: Optional[float] = 1.0e-5
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_layer: str = "layernorm"
    n_storage_tokens: int = 0
    mask_k_bias: bool = False
    fp8_enabled: bool = False  # not implemented: to train, set it to false
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    pos_embed_rope_base: Optional[float] = 100.0
    pos_embed_rope_min_period: Optional[float] = None
    pos_embed_rope_max_period: Optional[float] = None
    pos_embed_rope_normalize_coords: str = "separate"
    pos_embed_rope_shift_coords: Optional[float] = None
    pos_embed_rope_jitter_coords: Optional[float] = None
    pos_embed_rope_rescale_coords: Optional[float] = None
    pos_embed_rope_dtype: str = "bf16"
    # Initial weights: a backbone without heads in any layout (facebookresearch/dinov3 #23, #207), or the
    # teacher.pth of an earlier run, with heads.
    pretrained_weights: str = ""
    resume_from_teacher_chkpt: str = ""


@dataclass
class Crops:
    """Training crops (docs/spec.md 4.12).

    Sizes are in pixels. To train several resolutions together, give lists of equal length for global, local
    and Gram sizes and for the ratios.
    """

    global_crops_scale: list[float] = field(default_factory=lambda: [0.32, 1.0])
    global_crops_size: Any = 224
    local_crops_number: int = 8
    local_crops_scale: list[float] = field(default_factory=lambda: [0.05, 0.32])
    local_crops_size: Any = 96
    global_local_crop_pairs_ratios: Any = 1.0
    gram_teacher_crops_size: Any = None
    gram_teacher_no_distortions: bool = False
    teacher_to_student_resolution_scale: float = 1.0  # teacher crop size / student crop size
    localcrops_subset_of_globalcrops: bool = False
    share_color_jitter: bool = False
    teacher_no_color_jitter: bool = False  # the teacher sees the global crops without distortions
    color_jitter: list[float] = field(  # brightness, contrast, saturation, hue
        default_factory=lambda: [0.4, 0.4, 0.2, 0.1]
    )
    grayscale_probability: float = 0.2
    horizontal_flips: bool = True
    rgb_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    rgb_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])


@dataclass
class StudentEntry:
    """One student: the name of its folder, and its own keys of `student` and `optim`.

        multidistillation:
          enabled: true
          students:
            - {name: small, student: {arch: vit_small}}
            - {name: base, student: {arch: vit_base}, optim: {lr: 1.0e-4}}
            - {name: large, config_path: vitl.yaml}

    config_path: a file with keys of this student. All else (data, crops, masks, targets) is common to all
    students. ranks_range: the ranks of this student in the official code; here every rank trains all.
    """

    name: str = MISSING
    config_path: str = ""
    ranks_range: Optional[list[int]] = None
    student: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)


@dataclass
class MultiDistillation:
    """Students that train together, with the teacher of `distillation` (docs/spec.md 4.17).

    global_batch_size: images per step of all ranks, instead of train.batch_size_per_gpu.
    """

    enabled: bool = False
    global_batch_size: Optional[int] = None
    students: list[StudentEntry] = field(default_factory=list)


@dataclass
class Text:
    """Align texts with a frozen backbone: dino.txt (docs/spec.md 5.8). Sizes are those of the release.

    train.dataset_path has a caption for each image: a list of path<TAB>caption, or a table with a column of
    texts (ImageTable:tables=...:label=caption). Images are crops of crops.global_crops_size.
    """

    enabled: bool = False
    backbone: str = ""  # its file, in any layout
    vocabulary: str = ""  # CLIP's bpe_simple_vocab_16e6.txt.gz, or another file of that format
    vocab_size: int = 49408
    context_length: int = 77
    dim: int = 1280  # of the text tower; heads have 64 channels
    depth: int = 24
    dropout: float = 0.0
    head_depth: int = 2  # blocks of the vision head
    drop_path_rate: float = 0.3  # of the vision head
    max_logit_scale: float = 100.0  # the scale of cosines stays between 1 and this


N_GLOBAL_CROPS = 2  # per image; not configurable, the loss weights assume two (docs/spec.md 4.3)


@dataclass
class ComputePrecision:
    """Dtypes of products and of gradient reductions; DDP or FSDP2 (`train/distributed/data_parallel.py`).

    shard_ranks: with FSDP2, ranks that share one copy of the model (HSDP: replicas × shards); None for all.
    """

    param_dtype: str = "bf16"  # fp32 | bf16 | fp16
    reduce_dtype: str = "fp32"
    sharding_strategy: str = (
        "SHARD_GRAD_OP"  # FSDP2: SHARD_GRAD_OP (ZeRO-2) | FULL_SHARD (ZeRO-3); DDP: NO_SHARD
    )
    shard_ranks: Optional[int] = None


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
    gc_period: int = 150  # iterations between garbage collections; 0: whenever Python chooses
    stop_deadline: float = 120.0  # seconds from SIGINT, SIGTERM or SIGUSR1 to the end without a checkpoint
    tensorboard: bool = True  # also write TensorBoard scalars, if it is installed
    trackers: list[str] = field(default_factory=list)  # also send the numbers to: wandb, mlflow


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
    fused: Optional[bool] = None  # AdamW in one kernel; None: on GPUs
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
    """Iterations between checkpoints and how many to keep; every `keep_every`-th is never deleted.

    asynchronous: training goes on while a checkpoint is written, from a copy in the host's memory.
    """

    period: int = 3750
    max_to_keep: int = 3
    keep_every: Optional[int] = None
    asynchronous: bool = False


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


@dataclass
class Config:
    """Root of the configuration tree."""

    student: Student = field(default_factory=Student)
    teacher: Teacher = field(default_factory=Teacher)
    distillation: Distillation = field(default_factory=Distillation)
    multidistillation: MultiDistillation = field(default_factory=MultiDistillation)
    crops: Crops = field(default_factory=Crops)
    dino: Dino = field(default_factory=Dino)
    ibot: Ibot = field(default_factory=Ibot)
    gram: Gram = field(default_factory=Gram)
    compute_precision: ComputePrecision = field(default_factory=ComputePrecision)
    train: Train = field(default_factory=Train)
    optim: Optim = field(default_factory=Optim)
    schedules: Optional[Schedules] = None
    checkpointing: Checkpointing = field(default_factory=Checkpointing)
    evaluation: Evaluation = field(default_factory=Evaluation)
    text: Text = field(default_factory=Text)


def get_default_config() -> Any:
    """A new configuration (an OmegaConf `DictConfig` that behaves like `Config`)."""
    return OmegaConf.structured(Config())
