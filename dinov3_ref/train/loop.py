"""The training loop: batches -> loss -> gradients -> step -> teachers, recorded and resumable.

Source: docs/spec.md 4.11.

Every iteration's random numbers are seeded by (seed, rank, iteration), and the data's by their position, so a
run that was killed goes on as if it had not been: bit by bit on a CPU. Several students of one teacher go
side by side over the same batches (docs/spec.md 4.17, `students.py`); a run alone is one among one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dinov3_ref.data.seeding import derive_seed
from dinov3_ref.distributed import all_reduce_sum, get_rank, get_world_size
from dinov3_ref.errors import CheckpointError
from dinov3_ref.train import checkpoints
from dinov3_ref.train.distributed.precision import autocast, grad_scaler
from dinov3_ref.train.distributed.prepare_model import prepare
from dinov3_ref.train.export_teacher import export_teacher
from dinov3_ref.train.finite import FiniteGuard
from dinov3_ref.train.logging.evaluation import PeriodicEvaluation
from dinov3_ref.train.logging.run_log import RunLog
from dinov3_ref.train.logging.throughput import Clock
from dinov3_ref.train.networks.training_networks import TARGETS
from dinov3_ref.train.optimizer import build_optimizer, clip_gradients, set_rates
from dinov3_ref.train.schedules.rates import Rates, build_rates
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch


class Loader(Protocol):
    """Endless batches that can be taken up again (`data/loaders.py`)."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingRun:
    """One run in `config.train.output_dir`, taken up from its newest checkpoint if it has one.

    name: of a student that trains with others (`students.py`). leader: the one of them who asks the teacher
    for all; None for the leader itself, and for who trains alone. Raises `ConfigError`, `DataError`.
    """

    def __init__(
        self,
        config: Any,
        loader: Loader,
        device: torch.device | str = "cpu",
        *,
        name: str = "",
        leader: TrainingRun | None = None,
    ) -> None:
        self.config, self.loader, self.device, self.name = config, loader, torch.device(device), name
        self.output = Path(config.train.output_dir)
        self.rates = build_rates(config, get_world_size())
        self.evaluation = PeriodicEvaluation(config, self.device, self.rates.total_iterations)
        torch.manual_seed(config.train.seed)  # the same weights on every rank, sharded or not
        self.arch = SSLMetaArch(config, self.device, own_teacher=leader is None).train()
        self.ranks = prepare(self.arch, config, self.device)
        self.optimizer = build_optimizer(config, self.arch.get_params_groups())
        self.scaler = grad_scaler(config, self.device)
        self.guard = FiniteGuard()
        self.clock = Clock()
        self.leads_others = bool(name) and leader is None
        self.journal: RunLog | None = None

    def train(self) -> None:
        """All iterations that are left; the teacher is written at the end.

        Raises `TrainingDiverged` when losses stay NaN, `CheckpointError` for a checkpoint of another model.
        """
        train_together([self])  # one among one

    def take_up(self, iteration: int) -> int:
        """Go on from the checkpoint after `iteration`; the first iteration to do."""
        folder = self.output / checkpoints.FOLDER / str(iteration)
        extra = checkpoints.load(folder, self.arch, self.optimizer)
        self.loader.load_state_dict(extra["loader"])
        self.scaler.load_state_dict(extra["scaler"])
        return iteration + 1

    def batches(self) -> Iterator[dict[str, Any]]:
        """Without end, from where the loader is; the clock knows how long they took."""
        source = iter(self.loader)
        while True:
            with self.clock.waiting_for(self.config.train.batch_size_per_gpu * get_world_size()):
                batch = next(source)
            yield batch

    # ---- one iteration ------------------------------------------------------------------------

    def step(self, batches: Iterator[dict[str, Any]], iteration: int, rates: Rates) -> dict[str, Tensor]:
        """One optimiser step over `accumulation_steps` batches; their mean metrics, and gradient norms.

        A leader of others leaves its teacher's targets in the batches.
        """
        self.arch.before_step(iteration)
        set_rates(self.optimizer, rates)
        self.optimizer.zero_grad(set_to_none=True)
        count = self.config.train.accumulation_steps
        sums: dict[str, Tensor] = {}
        for part in range(count):
            batch = next(batches)
            torch.manual_seed(derive_seed(self.config.train.seed, get_rank(), iteration, part))
            with self.ranks.gradients_stay_local() if part < count - 1 else nullcontext():
                with autocast(self.config, self.device):
                    if self.leads_others:
                        batch[TARGETS] = self.arch.get_targets(batch, teacher_temp=rates.teacher_temp)
                    loss, metrics = self.ranks.loss(
                        batch, teacher_temp=rates.teacher_temp, iteration=iteration
                    )
                self.scaler.scale(loss / count).backward()
            for name, value in {"total_loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0) + torch.as_tensor(value, device=self.device) / count
        self.scaler.unscale_(self.optimizer)
        norms = clip_gradients(self.arch.student, self.config.optim.clip_grad)
        # a loss scale that proves too large shows in the gradients, and the scaler sees to it
        if self.guard.allows(sums["total_loss"], None if self.scaler.is_enabled() else norms):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.arch.after_step(iteration, rates.momentum)
        return sums | norms

    # ---- what remains of it -------------------------------------------------------------------

    def open_journal(self, start: int) -> None:
        """The first rank's; the others write nothing."""
        if get_rank() == 0:
            self.journal = RunLog(self.config, start, self.rates.total_iterations, self.name)

    def record(self, iteration: int, metrics: Mapping[str, Tensor], speed: Mapping[str, float]) -> None:
        """Metrics as means over the ranks; a collective, so every rank calls."""
        values = torch.stack([value.float() for value in metrics.values()])
        means = (all_reduce_sum(values) / get_world_size()).tolist()
        named = dict(zip(metrics, means, strict=True))
        if self.journal is not None:
            self.journal.record({"iteration": iteration, **named, **vars(self.rates.at(iteration)), **speed})

    def show_progress(self, iteration: int) -> None:
        if self.journal is not None:
            self.journal.display.advance(iteration)

    def evaluate_where_due(self, iteration: int) -> None:
        """Before the checkpoint: a run that is killed in between evaluates again."""
        if not self.evaluation.is_due_after(iteration):
            return
        found = self.evaluation.run(
            self.arch, iteration, None if self.journal is None else self.journal.evaluations
        )
        if self.journal is not None:
            self.journal.evaluated(iteration, found)

    def save_where_due(self, iteration: int) -> bool:
        """Whether there is a new checkpoint; older ones are left to `prune`."""
        last = iteration + 1 == self.rates.total_iterations
        if (iteration + 1) % self.config.checkpointing.period and not last:
            return False
        extra = {"loader": self.loader.state_dict(), "scaler": self.scaler.state_dict()}
        checkpoints.save(self.output, iteration, self.arch, self.optimizer, extra)
        return True

    def prune(self) -> None:
        rules = self.config.checkpointing
        checkpoints.prune(self.output, rules.max_to_keep, rules.keep_every)

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()


def train_together(runs: Sequence[TrainingRun]) -> None:
    """All iterations that are left: every batch is drawn once, by the first run, and seen by each in turn.

    They are taken up from the newest checkpoint that all have; at the end each writes its teacher. Raises
    `TrainingDiverged` when the losses of one stay NaN, and `CheckpointError`.
    """
    leader, *others = runs
    start = _take_up(runs)
    try:
        for run in runs:
            run.open_journal(start)
        batches = leader.batches()
        for iteration in range(start, leader.rates.total_iterations):
            drawn: list[dict[str, Any]] = []
            metrics = [
                leader.step(
                    _keeping(batches, drawn) if others else batches, iteration, leader.rates.at(iteration)
                ),
                *(run.step(iter(drawn), iteration, run.rates.at(iteration)) for run in others),
            ]
            if (iteration + 1) % leader.config.train.log_period == 0:
                speed = leader.clock.read()
                for run, found in zip(runs, metrics, strict=True):
                    run.record(iteration, found, speed)
            for run in runs:
                run.show_progress(iteration)
            with leader.clock.stopped():
                for run in runs:
                    run.evaluate_where_due(iteration)
            saved = [run.save_where_due(iteration) for run in runs]
            if all(saved):  # none of the old goes before all of the new are there
                for run in runs:
                    run.prune()
    finally:
        for run in runs:
            run.close()
    for run in runs:
        export_teacher(run.arch, run.output)


def _keeping(batches: Iterator[dict[str, Any]], drawn: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        drawn.append(batch)
        yield batch


def _take_up(runs: Sequence[TrainingRun]) -> int:
    """The first iteration to do; who was killed while the first checkpoints were written begins anew."""
    found = [checkpoints.finished(run.output) for run in runs]
    if common := set(found[0]).intersection(*found):
        return max(run.take_up(max(common)) for run in runs)
    first = min(runs[0].config.checkpointing.period, runs[0].rates.total_iterations) - 1
    last = sorted((max(done, default=-1), run.name) for run, done in zip(runs, found, strict=True))
    (_, behind), (newest, ahead) = last[0], last[-1]
    if newest > first:
        raise CheckpointError(
            f"students {ahead} and {behind} have no checkpoint in common ({ahead} is at {newest}); students "
            f"that train together begin together: choose another train.output_dir, or leave one out"
        )
    return 0
