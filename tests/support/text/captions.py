"""Captioned images and tiny runs that align texts with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinov3_ref.configs import load_config

TOY_VIT = Path(__file__).parents[3] / "examples" / "models" / "toy_vit"


def text_run(captions: Path, output: Path, *overrides: str) -> Any:
    """The recipe `toy_text` on a set that `write_captions` wrote: 60 steps of 64 images."""
    return load_config(
        "toy_text",
        [
            f"train.dataset_path={captions / 'train.tsv'}",
            f"train.output_dir={output}",
            f"text.backbone={TOY_VIT}",
            f"text.vocabulary={captions / 'vocabulary.txt'}",
            "train.num_workers=0",
            "train.tensorboard=false",
            "train.log_period=1",
            "train.OFFICIAL_EPOCH_LENGTH=30",
            "optim.epochs=2",
            "optim.warmup_epochs=0",
            *overrides,
        ],
    )
