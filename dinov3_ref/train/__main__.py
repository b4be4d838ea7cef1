"""`python -m dinov3_ref.train --config RECIPE_OR_FILE key=value ...`, in one process or under torchrun."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dinov3_ref.configs import check_ready, load_config, recipe_names, set_global_batch, student_configs
from dinov3_ref.data import build_training_loader
from dinov3_ref.distributed import get_rank, get_world_size
from dinov3_ref.errors import ConfigError, Dinov3Error
from dinov3_ref.train.distributed.devices import training_device
from dinov3_ref.train.export_teacher import TEACHER
from dinov3_ref.train.loop import TrainingRun
from dinov3_ref.train.stop_requests import RunStopped
from dinov3_ref.train.students import train_students

INTERRUPTED = 130  # the exit code that shells give Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; return the exit code (0 done, 1 diverged, 2 misuse, 128 + the signal's number if stopped)."""
    parser = argparse.ArgumentParser(
        prog="python -m dinov3_ref.train",
        description="Train DINOv3. Resumes if train.output_dir holds a checkpoint.",
    )
    parser.add_argument("--config", help=f"YAML file or recipe: {', '.join(recipe_names())}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=1e-4")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides, note=_note)
        if not config.train.dataset_path:
            raise ConfigError("train.dataset_path is empty; wanted train.dataset_path=FOLDER of images")
        if config.multidistillation.enabled:
            student_configs(config)  # checks each of them, before the data is listed
        else:
            check_ready(config)
        with training_device() as device:
            set_global_batch(config, get_world_size())
            if config.text.enabled:
                done = [train_texts(config, device)]
            elif config.multidistillation.enabled:
                loader = build_training_loader(config)
                done = [folder / TEACHER for folder in train_students(config, loader, device)]
            else:
                run = TrainingRun(config, build_training_loader(config), device)
                run.train()
                done = [run.output / TEACHER]
            if get_rank() == 0:
                for folder in done:
                    print(folder)
    except Dinov3Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except RunStopped as stopped:
        if os.environ.get("RANK", "0") == "0":  # the process group is gone already
            print(f"{stopped}; run the same command again to resume from there", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume from the newest checkpoint", file=sys.stderr)
        return INTERRUPTED
    return 0


def _note(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr)


def train_texts(config: Any, device: torch.device) -> Path:
    """Align texts with a frozen backbone; return the folder of the model."""
    from dinov3_ref.train.text.run import FOLDER, TextRun  # needs tokenizers

    run = TextRun(config, device)
    run.train()
    return run.output / FOLDER


if __name__ == "__main__":
    sys.exit(main())
