"""How to export: every choice in one place, validated at birth."""

from __future__ import annotations

from dataclasses import dataclass, field

from dinodeploy.errors import MisuseError
from exporters.dialects import DIALECTS
from exporters.precision.quantization.images import Calibration
from exporters.precision.recipes import RECIPES, TYPES, Override
from exporters.trace.fold import FOLDS


@dataclass(frozen=True)
class ExportOptions:
    """How to export. Validated at birth: MisuseError."""

    recipe: str = "fp32"
    dialect: str = "portable"
    preset: str = "official"
    imgsz: tuple[int, int] | None = None  # H, W; None: the preset's own
    layers: tuple[int, ...] = ()
    attention: bool = False  # what CLS gives each patch in the last block, as an output too
    folds: tuple[str, ...] = FOLDS
    calibration: Calibration = field(default_factory=Calibration)  # of an 8-bit recipe
    overrides: tuple[Override, ...] = ()  # (pattern of a layer's path, type)
    external_data: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for option, value, known in (
            ("precision", self.recipe, RECIPES),
            ("dialect", self.dialect, DIALECTS),
        ):
            if value not in known:
                raise MisuseError(
                    f"{option} {value!r} is not there in this version; it has: {', '.join(known)}"
                )
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
                "--override changes layers of a narrow recipe, and fp32 has none; add --precision"
            )
