"""The options of an export, validated when created."""

from __future__ import annotations

from dataclasses import dataclass, field

from dinodeploy.errors import MisuseError
from exporters.dialects import DIALECTS
from exporters.precision.quantization.images import Calibration
from exporters.precision.recipes import RECIPES, TYPES, Override
from exporters.trace.fold import FOLDS

INPUTS = ("float32", "uint8")
TEXT_PREFIX = "text_model."  # of an override's pattern: a layer of dino.txt's text tower


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export. Raises MisuseError when created with a wrong value."""

    recipe: str = "fp32"
    dialect: str = "portable"
    preset: str | None = None  # None: official, or a whole model's own
    imgsz: tuple[int, int] | None = None  # H, W; None: the preset's own
    layers: tuple[int, ...] = ()
    cls_layers: tuple[int, ...] = ()  # blocks whose CLS tokens a head reads; never outputs of a bundle
    attention: bool = False  # add an output: the last block's attention from CLS to each patch
    folds: tuple[str, ...] = FOLDS
    calibration: Calibration = field(default_factory=Calibration)  # for 8-bit recipes
    overrides: tuple[Override, ...] = ()  # (pattern of a layer's path, type)
    backbone_outputs: bool = False  # of dino.txt: also cls, storage and patch of the backbone
    overwrite: bool = False
    head_precision: str = "fp32"  # fp32 or fp16: layers outside the backbone
    input: str = "float32"  # float32 [B,3,H,W], normalised; or uint8 [B,H,W,3]

    @property
    def image_overrides(self) -> tuple[Override, ...]:
        """Overrides of the image graph: all but those of paths in `text_model`."""
        return tuple(one for one in self.overrides if not one[0].startswith(TEXT_PREFIX))

    @property
    def text_overrides(self) -> tuple[Override, ...]:
        """Overrides of dino.txt's text graph, by paths inside `text_model`."""
        pairs = ((pattern.removeprefix(TEXT_PREFIX), name) for pattern, name in self.overrides)
        return tuple(pair for pair, own in zip(pairs, self.overrides, strict=True) if pair != own)

    def __post_init__(self) -> None:
        for option, value, known in (
            ("precision", self.recipe, RECIPES),
            ("dialect", self.dialect, DIALECTS),
        ):
            if value not in known:
                raise MisuseError(f"{option} {value!r} is unknown to this version; known: {', '.join(known)}")
        if self.head_precision not in ("fp32", "fp16"):
            raise MisuseError(f"head precision is {self.head_precision!r}; wanted fp32 or fp16")
        if self.input not in INPUTS:
            raise MisuseError(f"input is {self.input!r}; wanted {' or '.join(INPUTS)}")
        for fold in self.folds:
            if fold not in FOLDS:
                raise MisuseError(f"unknown fold {fold!r}; known: {', '.join(FOLDS)}")
        for pattern, name in self.overrides:
            if not pattern or name not in TYPES:
                raise MisuseError(
                    f"--override '{pattern}={name}': wanted PATTERN=TYPE, TYPE one of {', '.join(TYPES)}"
                )
        if self.overrides and not RECIPES[self.recipe].roles:
            raise MisuseError(
                "--override changes layers of a low-precision recipe, and fp32 has none; add --precision"
            )
