"""`FineTuneRun`: the loop of a fine-tuning. Logs, checkpoints and resuming are those of `train/loop.py`.

    <output>/options.json          the options: a run resumes with the same ones only
    <output>/best-000349.safetensors   the trained tensors after the best epoch
    <output>/training_metrics.json, evaluations.json, tensorboard/, ckpt/    as in pre-training

Every epoch ends with the scores on the validation images, in fp32, and a checkpoint. The best weights are
kept; training ends early after `patience` epochs without better ones.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dinov3_ref.adapt.data import Examples, Normalization, scored_batches, training_loader
from dinov3_ref.adapt.networks import FineTuned
from dinov3_ref.adapt.objectives import Objective, Tally
from dinov3_ref.adapt.options import FineTuneOptions, loop_config
from dinov3_ref.atomic import replacing
from dinov3_ref.checkpoints import Checkpoint, normalization
from dinov3_ref.checkpoints.files import write_safetensors
from dinov3_ref.errors import ConfigError, TrainingDiverged
from dinov3_ref.heads import Head
from dinov3_ref.json_file import read_json
from dinov3_ref.train.logging.run_log import MetricsFile
from dinov3_ref.train.loop import TrainingRun

OPTIONS_FILE = "options.json"
BEST = "best-{:06d}.safetensors"
MAY_CHANGE = ("workers", "log_period", "trackers")  # between a run and its resumption


class FineTuneRun(TrainingRun):
    """Fine-tune `checkpoint` and `head` on `train`; choose by `validation`. State is in the folder `output`.

    inputs: JSON that says what the data is; a run resumes on the same data only.
    Raises `ConfigError`, `CheckpointError`, `DataError`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: Head,
        objective: Objective,
        options: FineTuneOptions,
        train: Examples,
        validation: Examples,
        output: Path,
        device: torch.device,
        inputs: dict[str, Any] | None = None,
    ) -> None:
        self.checkpoint, self.task_head, self.objective, self.options = checkpoint, head, objective, options
        self.validation = validation
        output.mkdir(parents=True, exist_ok=True)
        identity = {"base": checkpoint.sha256, **(inputs or {}), **asdict(options)}
        _check_same(output / OPTIONS_FILE, identity)
        bf16 = options.precision == "bf16"
        if options.precision == "auto":
            bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        steps = max(1, math.ceil(len(train) / (options.batch_size * options.accumulation)))
        config = loop_config(options, steps, str(output), bf16)
        mean, std = normalization(checkpoint)
        loader = training_loader(train, options, Normalization(mean, std))
        super().__init__(config, loader, device)

    def build_networks(self, *, own_teacher: bool) -> FineTuned:
        return FineTuned(self.checkpoint, self.task_head, self.objective, self.options, self.device)

    def build_evaluation(self) -> Validation:
        period = self.config.train.OFFICIAL_EPOCH_LENGTH
        return Validation(self.validation, self.options, self.device, self.output, period)

    def prune_checkpoints(self) -> None:
        super().prune_checkpoints()
        assert isinstance(self.evaluation, Validation)
        self.evaluation.prune()

    def export(self) -> Path:
        """Give the networks their best weights. Raises `TrainingDiverged` if no epoch had a finite score."""
        assert isinstance(self.evaluation, Validation)
        best = self.evaluation.best_iteration
        if best is None:
            raise TrainingDiverged("no epoch had a finite validation score; lower the rate: --set lr=1e-5")
        state = load_file(self.output / BEST.format(best))
        self.arch.load_state_dict(state, strict=False)
        return self.output


class Validation:
    """Scores the validation images after every epoch; keeps the best weights in a file."""

    def __init__(
        self, examples: Examples, options: FineTuneOptions, device: torch.device, output: Path, period: int
    ) -> None:
        self.examples, self.options, self.device = examples, options, device
        self.output, self.period = output, period
        self.best: float | None = None
        self.best_iteration: int | None = None
        self.epochs_since = 0

    @property
    def ends_training(self) -> bool:
        return 0 < self.options.patience <= self.epochs_since

    def is_due_after(self, iteration: int) -> bool:
        """True after each epoch."""
        return (iteration + 1) % self.period == 0

    def run(self, networks: FineTuned, iteration: int, file: MetricsFile | None) -> dict[str, float]:
        """Score, and write the weights if they are the best so far."""
        scores = score(networks, self.examples, self.options, self.device).scores()
        if file is not None:
            file.append({"iteration": iteration, **scores})
        value = scores[networks.objective.metric]
        if math.isfinite(value) and (self.best is None or value > self.best):
            with replacing(self.output / BEST.format(iteration)) as draft:
                write_safetensors(networks.trained_state(), draft)
            self.best, self.best_iteration, self.epochs_since = value, iteration, 0
        else:
            self.epochs_since += 1
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Written by a checkpoint, whose best weights are then the only ones that are needed."""
        return {"best": self.best, "best_iteration": self.best_iteration, "epochs_since": self.epochs_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_iteration = state.get("best"), state.get("best_iteration")
        self.epochs_since = state.get("epochs_since", 0)

    def prune(self) -> None:
        """Delete the weights that are not the best ones. Call it after a checkpoint."""
        for path in self.output.glob("best-*.safetensors"):
            if self.best_iteration is None or path.name != BEST.format(self.best_iteration):
                path.unlink()


@torch.no_grad()
def score(networks: FineTuned, examples: Examples, options: FineTuneOptions, device: torch.device) -> Tally:
    """Outputs of all examples against their targets, in evaluation mode and fp32."""
    tally = networks.objective.tally()
    networks.eval()
    for images, targets in scored_batches(examples, options):
        tally.update(networks.predict(images.to(device)).cpu(), targets)
    networks.train()
    return tally


def _check_same(path: Path, identity: dict[str, Any]) -> None:
    """Write the options of a new run. Raises `ConfigError` for a folder whose run had other ones."""
    if path.is_file():
        known = read_json(path, "config")
        fixed = [name for name in identity if name not in MAY_CHANGE]
        changed = [name for name in fixed if json.dumps(known.get(name)) != json.dumps(identity[name])]
        if changed:
            name = changed[0]
            raise ConfigError(
                f"{path.parent} holds a run with {name} {known.get(name)}, this one has {identity[name]}; "
                "resume with the same options and data, or start again with --overwrite or another folder"
            )
    with replacing(path) as draft:
        draft.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
