"""Linear heads: classes or values per image, a class per patch (docs/spec.md 5.2, 5.4); DINOClassifier.

Shapes: B batch, D embed_dim, h w patch grid, p patch size, K classes, C channels of all maps together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads.head import Head, arguments, map_names
from dinov3_ref.models import DinoVisionTransformer

Pooling = Literal["cls", "mean", "cls_mean"]
POOLINGS: dict[str, tuple[str, ...]] = {"cls": ("cls",), "mean": ("patch",), "cls_mean": ("cls", "patch")}
SIZES = ("patch", "pixel")
WEIGHT_STD = 0.01  # docs/spec.md 5.2, 5.4


def check_classes(num_classes: int, classes: Sequence[str]) -> None:
    """Raises ConfigError for fewer than one class, or names that do not match the classes."""
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; wanted at least 1")
    if classes and (len(classes) != num_classes or len(set(classes)) < num_classes):
        raise ConfigError(
            f"{len(classes)} class names for {num_classes} classes; wanted one different name each"
        )


class LinearClassifier(Head):
    """`cls` or mean patch [B,D], or both joined to [B,2D] -> `logits` [B,K].

    The released 7B classifier uses both (docs/spec.md 5.2), `DINOClassifier` CLS, timm's models the mean.
    """

    task = "classify"

    def __init__(
        self, embed_dim: int, num_classes: int, pooling: Pooling = "cls_mean", classes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._config = arguments(locals())
        check_classes(num_classes, classes)
        self.embed_dim = embed_dim
        self.classes = tuple(classes)
        self.inputs = inputs_of(pooling)
        self.outputs = {"logits": ("batch", num_classes)}
        self.linear = linear_of(self.inputs, embed_dim, num_classes)

    def forward(self, *features: Tensor) -> tuple[Tensor]:
        return (self.linear(pooled(features)),)


class MultiLabelClassifier(LinearClassifier):
    """As `LinearClassifier`, with a yes or no for each class: its sigmoid is compared with its threshold.

    thresholds: probability from which a class counts as present, [K]; default 0.5 for all.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        pooling: Pooling = "cls_mean",
        thresholds: Sequence[float] = (),
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__(embed_dim, num_classes, pooling, classes)
        self._config = arguments(locals())
        if thresholds and (len(thresholds) != num_classes or not all(0 < value < 1 for value in thresholds)):
            raise ConfigError(
                f"thresholds are {list(thresholds)}; wanted {num_classes} numbers between 0 and 1"
            )
        self.thresholds = tuple(thresholds) or (0.5,) * num_classes

    @property
    def settings(self) -> dict[str, Any]:
        return {"multi_label": True, "thresholds": list(self.thresholds)}


class LinearRegressor(Head):
    """The features of `LinearClassifier` -> `values` [B,K]: std · (linear map) + mean of the targets.

    classes: the names of the values.
    """

    task = "regress"
    mean: Tensor
    std: Tensor

    def __init__(
        self, embed_dim: int, num_values: int, pooling: Pooling = "cls_mean", classes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._config = arguments(locals())
        check_classes(num_values, classes)
        self.embed_dim = embed_dim
        self.classes = tuple(classes)
        self.inputs = inputs_of(pooling)
        self.outputs = {"values": ("batch", num_values)}
        self.linear = linear_of(self.inputs, embed_dim, num_values)
        self.register_buffer("mean", torch.zeros(num_values))
        self.register_buffer("std", torch.ones(num_values))

    def forward(self, *features: Tensor) -> tuple[Tensor]:
        return (self.linear(pooled(features)) * self.std + self.mean,)


def inputs_of(pooling: str) -> tuple[str, ...]:
    """What a head with this pooling reads. Raises ConfigError for an unknown one."""
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling {pooling!r} is unknown; wanted one of {', '.join(POOLINGS)}")
    return POOLINGS[pooling]


def linear_of(inputs: Sequence[str], embed_dim: int, outputs: int) -> nn.Linear:
    """The layer of a head that reads `inputs`, with the published initialisation."""
    linear = nn.Linear(len(inputs) * embed_dim, outputs)
    nn.init.normal_(linear.weight, std=WEIGHT_STD)
    nn.init.zeros_(linear.bias)
    return linear


def pooled(features: Sequence[Tensor]) -> Tensor:
    """CLS [B,D], the mean of patches [B,h,w,D], or both -> [B,D] or [B,2D]."""
    return torch.cat([x if x.dim() == 2 else x.mean(dim=(1, 2)) for x in features], dim=-1)


class LinearSegmenter(Head):
    """Patch maps [B,h,w,D] of the last or of chosen blocks -> `segmentation`, logits per patch or pixel.

    [B,K,h,w] at size "patch"; [B,K,ph,pw] at "pixel", resized bilinearly. `batchnorm` adds one before the 1x1
    convolution, as in the official evaluation. Dropout is omitted: it has no effect at inference.
    """

    task = "segment"

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        size: Literal["patch", "pixel"] = "pixel",
        layers: Sequence[int] = (),
        batchnorm: bool = False,
        patch_size: int = 16,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._config = arguments(locals())
        check_classes(num_classes, classes)
        if size not in SIZES:
            raise ConfigError(f"size {size!r} is unknown; wanted one of {', '.join(SIZES)}")
        self.embed_dim, self.size, self.patch_size = embed_dim, size, patch_size
        self.classes = tuple(classes)
        self.inputs = map_names(layers)
        grid = ("rows", "columns") if size == "patch" else ("height", "width")
        self.outputs = {"segmentation": ("batch", num_classes, *grid)}
        channels = len(self.inputs) * embed_dim
        self.batchnorm, self.conv = norm_and_conv(channels, num_classes, batchnorm)

    def forward(self, *maps: Tensor) -> tuple[Tensor]:
        x_BCHW = torch.cat(maps, dim=-1).permute(0, 3, 1, 2)
        logits = self.conv(self.batchnorm(x_BCHW))
        return (logits if self.size == "patch" else enlarge(logits, self.patch_size),)


def norm_and_conv(channels: int, outputs: int, batchnorm: bool) -> tuple[nn.Module, nn.Conv2d]:
    """The layers of a linear head on patch maps: a batch norm or nothing, and a 1x1 convolution."""
    conv = nn.Conv2d(channels, outputs, kernel_size=1)
    nn.init.normal_(conv.weight, std=WEIGHT_STD)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.BatchNorm2d(channels) if batchnorm else nn.Identity(), conv


def enlarge(x: Tensor, factor: float) -> Tensor:
    """[B,C,h,w] -> [B,C,factor h,factor w], bilinear, half-pixel centres."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


class DINOClassifier(nn.Module):
    """A linear layer on CLS: pixels [B,3,H,W] -> logits [B,K]. Only `classifier` is trained.

    Source: docs/development/seed.md S33, S66.
    `train()` leaves the backbone in eval mode: drop path and RoPE augmentation would change the features of
    an image at every step.
    """

    def __init__(self, dinov3_backbone: DinoVisionTransformer, num_classes: int = 1000) -> None:
        super().__init__()
        self.backbone = dinov3_backbone.eval().requires_grad_(False)
        self.classifier = nn.Linear(self.backbone.embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.classifier(features)

    def train(self, mode: bool = True) -> DINOClassifier:
        super().train(mode)
        self.backbone.eval()
        return self

    def to_head(self, classes: tuple[str, ...] = ()) -> LinearClassifier:
        """The trained layer as a head, for export with the backbone."""
        head = LinearClassifier(self.backbone.embed_dim, self.classifier.out_features, "cls", classes)
        head.linear.load_state_dict(self.classifier.state_dict())
        return head
