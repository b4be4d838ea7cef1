"""Options of a fine-tuning, their defaults and where these come from; `name=value` words that change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dinov3_ref.adapt.lora import DEFAULT_TARGETS, LoraOptions
from dinov3_ref.configs import load_config
from dinov3_ref.errors import ConfigError

TASKS = ("classify", "multilabel", "segment", "regress")
PRECISIONS = ("auto", "fp32", "bf16")
# LoRA's matrices start near zero and take larger steps than weights that are good already.
LEARNING_RATES = {"lora": 5e-4, "unfreeze": 1e-4}


@dataclass(frozen=True)
class FineTuneOptions:
    """Exactly one of `lora` (the rank) and `unfreeze` (number of last blocks) is given; all sizes in pixels.

    lr: of LoRA or of the last unfrozen block; layer_decay: factor for each block before it
    (arXiv:2106.08254, appendix). head_lr: of the head. clip: largest norm of the gradients of backbone and of
    head. patience: epochs without a better validation score until the end; 0 for never. balanced: classes
    count equally. epochs and warmup_epochs are passes over the training images.
    Raises `ConfigError`.
    """

    task: str
    height: int
    width: int
    lora: int | None = None
    unfreeze: int | None = None
    pooling: str = "cls_mean"
    epochs: int = 20
    batch_size: int = 32
    accumulation: int = 1
    lr: float = 0.0  # 0: of LEARNING_RATES
    head_lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    warmup_epochs: int = 1
    clip: float = 1.0
    patience: int = 6
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    balanced: bool = True
    lora_alpha: float = 0.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = DEFAULT_TARGETS
    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = True
    color_jitter: float = 0.0
    precision: str = "auto"  # bf16 on a GPU that has it, else fp32
    checkpointing: bool = False  # recompute activations to save memory
    workers: int = 0  # processes that read images
    seed: int = 0
    log_period: int = 10  # steps between records
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("task", TASKS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; wanted one of {', '.join(known)}")
        if (self.lora is None) == (self.unfreeze is None):
            raise ConfigError("give one of --lora RANK and --unfreeze BLOCKS")
        for is_wrong, name, wanted in self._rules():
            if is_wrong:
                raise ConfigError(f"{name} is {getattr(self, name)}; wanted {wanted}")
        if self.lora is not None:
            self.lora_options()

    def _rules(self) -> list[tuple[bool, str, str]]:
        low, high = self.crop_scale
        positive = ("epochs", "batch_size", "accumulation", "log_period", "height", "width", "head_lr")
        others = ("lr", "weight_decay", "clip", "patience", "warmup_epochs", "workers", "color_jitter")
        return [
            *((not getattr(self, name) > 0, name, "more than 0") for name in positive),
            *((not getattr(self, name) >= 0, name, "0 or more") for name in others),
            ((self.unfreeze or 0) < 0, "unfreeze", "a number of blocks, 0 or more"),
            (self.warmup_epochs > self.epochs, "warmup_epochs", f"at most epochs, {self.epochs}"),
            (not 0 < self.layer_decay <= 1, "layer_decay", "more than 0, at most 1"),
            (not 0 <= self.drop_path < 1, "drop_path", "0 or more, less than 1"),
            (not 0 <= self.label_smoothing < 1, "label_smoothing", "0 or more, less than 1"),
            (not 0 < low <= high <= 1, "crop_scale", "two shares of the area, 0 < low <= high <= 1"),
            (not math.isfinite(self.lr + self.head_lr + self.weight_decay), "lr", "a finite number"),
        ]

    def lora_options(self) -> LoraOptions:
        """The options of the LoRA layers."""
        assert self.lora is not None
        return LoraOptions(self.lora, self.lora_alpha, self.lora_dropout, self.lora_targets)

    @property
    def learning_rate(self) -> float:
        return self.lr or LEARNING_RATES["unfreeze" if self.lora is None else "lora"]


FIXED = ("task", "lora", "unfreeze", "height", "width", "pooling", "seed")  # options of their own


def with_settings(options: FineTuneOptions, settings: Sequence[str]) -> FineTuneOptions:
    """The options with `name=value` words applied: lr=1e-4 flip=false crop_scale=0.8,1 lora_targets=q,v.

    Raises `ConfigError` for an unknown name or a value of another type.
    """
    kinds = {field.name: str(field.type) for field in fields(options) if field.name not in FIXED}
    changes: dict[str, Any] = {}
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals or name not in kinds:
            raise ConfigError(f"{word!r} is no setting; wanted name=value with one of {', '.join(kinds)}")
        try:
            changes[name] = _parse(value.strip(), kinds[name])
        except ValueError as error:
            raise ConfigError(f"{word!r}: wanted a value of the type {kinds[name]}") from error
    return replace(options, **changes)


def _parse(text: str, kind: str) -> Any:
    """Raises ValueError."""
    if kind.startswith("tuple"):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if kind == "tuple[float, float]":
            low, high = map(float, parts)
            return low, high
        return tuple(parts)
    if kind == "bool":
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else int("x")
    return {"int": int, "float": float, "str": str}[kind](text)


def loop_config(options: FineTuneOptions, steps: int, output: str, bf16: bool) -> Any:
    """The configuration of the training loop (`dinov3_ref/train`) for epochs of `steps` steps."""
    words = {
        "train.output_dir": output,
        "train.seed": options.seed,
        "train.batch_size_per_gpu": options.batch_size,
        "train.accumulation_steps": options.accumulation,
        "train.num_workers": options.workers,
        "train.OFFICIAL_EPOCH_LENGTH": steps,
        "train.checkpointing": options.checkpointing,
        "train.compile": False,
        "train.log_period": options.log_period,
        "train.trackers": list(options.trackers),
        "compute_precision.param_dtype": "bf16" if bf16 else "fp32",
        "compute_precision.sharding_strategy": "NO_SHARD",
        "dino.koleo_loss_weight": 0.0,
        "optim.epochs": options.epochs,
        "optim.lr": options.learning_rate,
        "optim.min_lr": 0.0,
        "optim.warmup_epochs": options.warmup_epochs,
        "optim.freeze_last_layer_epochs": 0,
        "optim.weight_decay": options.weight_decay,
        "optim.weight_decay_end": options.weight_decay,
        "optim.scaling_rule": "none",
        "optim.clip_grad": options.clip,
        "optim.layerwise_decay": options.layer_decay,
        "optim.fused": True,
        "checkpointing.period": steps,
        "checkpointing.max_to_keep": 1,
    }
    config = load_config()
    for key, value in words.items():
        group, name = key.split(".")
        config[group][name] = value
    return config
