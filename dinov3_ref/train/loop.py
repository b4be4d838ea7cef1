"""The training loop (SPEC 4.11): batches -> loss -> gradients -> step -> teachers, recorded and resumable.

Every iteration's random numbers are seeded by (seed, rank, iteration), and the data's by their position, so a
run that was killed goes on as if it had not been: bit by bit on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dinov3_ref.data.seeding import derive_seed
from dinov3_ref.distributed import all_reduce_sum, get_rank, get_world_size
from dinov3_ref.train import checkpoints
from dinov3_ref.train.clock import Clock
from dinov3_ref.train.evaluation import PeriodicEvaluation
from dinov3_ref.train.export import export_teacher
from dinov3_ref.train.finite import FiniteGuard
from dinov3_ref.train.journal import Journal
from dinov3_ref.train.optimizer import build_optimizer, clip_gradients, set_rates
from dinov3_ref.train.precision import autocast, grad_scaler
from dinov3_ref.train.prepare import prepare
from dinov3_ref.train.rates import Rates, build_rates
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch


class Loader(Protocol):
    """Endless batches that can be taken up again (`data/loaders.py`)."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingRun:
    """One run in `config.train.output_dir`, taken up from its newest checkpoint if it has one.

    Raises `ConfigError`, `DataError` and `CheckpointError`.
    """

    def __init__(self, config: Any, loader: Loader, device: torch.device | str = "cpu") -> None:
        self.config, self.loader, self.device = config, loader, torch.device(device)
        self.output = Path(config.train.output_dir)
        self.rates = build_rates(config, get_world_size())
        self.evaluation = PeriodicEvaluation(config, self.device, self.rates.total_iterations)
        torch.manual_seed(config.train.seed)  # the same weights on every rank, sharded or not
        self.arch = SSLMetaArch(config, self.device).train()
        self.ranks = prepare(self.arch, config, self.device)
        self.optimizer = build_optimizer(config, self.arch.get_params_groups())
        self.scaler = grad_scaler(config, self.device)
        self.guard = FiniteGuard()
        self.clock = Clock()
        self.start = self._resume()

    def _resume(self) -> int:
        """Take up the newest checkpoint; the first iteration to do."""
        done = checkpoints.finished(self.output)
        if not done:
            return 0
        extra = checkpoints.load(self.output / checkpoints.FOLDER / str(done[-1]), self.arch, self.optimizer)
        self.loader.load_state_dict(extra["loader"])
        self.scaler.load_state_dict(extra["scaler"])
        return done[-1] + 1

    def train(self) -> None:
        """All iterations that are left; the teacher is written at the end.

        Raises `TrainingDiverged` when losses stay NaN.
        """
        journal = Journal(self.config, self.start, self.rates.total_iterations) if get_rank() == 0 else None
        try:
            batches = iter(self.loader)
            for iteration in range(self.start, self.rates.total_iterations):
                rates = self.rates.at(iteration)
                metrics = self.step(batches, iteration, rates)
                if (iteration + 1) % self.config.train.log_period == 0:
                    record = self._record(iteration, rates, metrics)
                    if journal is not None:
                        journal.record(record)
                if journal is not None:
                    journal.display.advance(iteration)
                self._evaluate_where_due(iteration, journal)
                self._save_where_due(iteration)
        finally:
            if journal is not None:
                journal.close()
        export_teacher(self.arch, self.output)

    # ---- one iteration ------------------------------------------------------------------------

    def step(self, batches: Iterator[dict[str, Any]], iteration: int, rates: Rates) -> dict[str, Tensor]:
        """One optimiser step over `accumulation_steps` batches; their mean metrics, and gradient norms."""
        self.arch.before_step(iteration)
        set_rates(self.optimizer, rates)
        self.optimizer.zero_grad(set_to_none=True)
        count = self.config.train.accumulation_steps
        sums: dict[str, Tensor] = {}
        for part in range(count):
            with self.clock.waiting_for(self.config.train.batch_size_per_gpu * get_world_size()):
                batch = next(batches)
            torch.manual_seed(derive_seed(self.config.train.seed, get_rank(), iteration, part))
            with self.ranks.gradients_stay_local() if part < count - 1 else nullcontext():
                with autocast(self.config, self.device):
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

    def _record(self, iteration: int, rates: Rates, metrics: Mapping[str, Tensor]) -> dict[str, Any]:
        """Metrics as means over the ranks; a collective, so every rank calls."""
        values = torch.stack([value.float() for value in metrics.values()])
        means = (all_reduce_sum(values) / get_world_size()).tolist()
        return {
            "iteration": iteration,
            **dict(zip(metrics, means, strict=True)),
            **vars(rates),
            **self.clock.read(),
        }

    def _evaluate_where_due(self, iteration: int, journal: Journal | None) -> None:
        """Before the checkpoint: a run that is killed in between evaluates again."""
        if not self.evaluation.is_due_after(iteration):
            return
        with self.clock.stopped():
            file = None if journal is None else journal.evaluations
            found = self.evaluation.run(self.arch, iteration, file)
        if journal is not None:
            journal.evaluated(iteration, found)

    def _save_where_due(self, iteration: int) -> None:
        rules, last = self.config.checkpointing, iteration + 1 == self.rates.total_iterations
        if (iteration + 1) % rules.period and not last:
            return
        extra = {"loader": self.loader.state_dict(), "scaler": self.scaler.state_dict()}
        checkpoints.save(self.output, iteration, self.arch, self.optimizer, extra)
        checkpoints.prune(self.output, rules.max_to_keep, rules.keep_every)
