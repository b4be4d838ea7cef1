"""The training loop of one run: `TrainingRun.train`. The step itself is in `step.py`.

Source: docs/spec.md 4.11.

A resumed run repeats the interrupted one exactly, bit for bit on a CPU: checkpoints hold the position in the
data, samples are seeded by their position and steps by their iteration.
`students.py` has the loop for several students of one teacher.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dinov3_ref.configs import check_ready
from dinov3_ref.distributed import all_reduce_sum, get_rank, get_world_size
from dinov3_ref.errors import TrainingDiverged
from dinov3_ref.train import checkpoints
from dinov3_ref.train.distributed.data_parallel import is_sharding
from dinov3_ref.train.distributed.deferred_init import build_deferred
from dinov3_ref.train.export_teacher import TEACHER, export_teacher
from dinov3_ref.train.garbage import GarbageCollection
from dinov3_ref.train.logging.evaluation import PeriodicEvaluation
from dinov3_ref.train.logging.run_log import MetricsFile, RunLog
from dinov3_ref.train.schedules import build_rates
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch
from dinov3_ref.train.step import TrainingStep
from dinov3_ref.train.stop_requests import RunStopped, StopRequests

OWED, EVALUATION = "evaluation_owed", "evaluation"  # entries of a checkpoint


class Loader(Protocol):
    """Endless batches whose position can be saved and restored (`data/loaders.py`)."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Evaluation(Protocol):
    """Scores while training (`logging/evaluation.py`). `state_dict` is JSON that a checkpoint keeps."""

    @property
    def ends_training(self) -> bool: ...
    def is_due_after(self, iteration: int) -> bool: ...
    def run(self, networks: Any, iteration: int, file: MetricsFile | None) -> dict[str, float]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingRun:
    """One run in `config.train.output_dir`: the loop, and the state it works on.

    name, own_teacher: for one of several students (`students.py`): the name shown in its log lines, and
    whether it holds the distillation teacher. Raises `ConfigError`, `DataError`.
    """

    def __init__(
        self,
        config: Any,
        loader: Loader,
        device: torch.device | str = "cpu",
        *,
        name: str = "",
        own_teacher: bool = True,
    ) -> None:
        check_ready(config)
        self.config, self.loader, self.device, self.name = config, loader, torch.device(device), name
        self.output = Path(config.train.output_dir)
        self.rates = build_rates(config, get_world_size())
        self.evaluation = self.build_evaluation()
        torch.manual_seed(config.train.seed)  # the same initial weights on every rank, sharded or not
        self.arch = self.build_networks(own_teacher=own_teacher).train()
        self.step = TrainingStep(config, self.arch, self.device)
        self.writer = checkpoints.CheckpointWriter(
            self.output, asynchronous=config.checkpointing.asynchronous
        )
        self.throughput = Throughput()
        self.owed: int | None = None  # iteration whose evaluation the checkpoint still owes
        self.log: RunLog | None = None

    def train(self) -> None:
        """Resume from the newest checkpoint, do all remaining iterations, `export`.

        Raises `RunStopped` when a signal ended it after a checkpoint, `TrainingDiverged` when losses stay
        NaN, `CheckpointError` for a checkpoint of another model.
        """
        start = self.resume(max(checkpoints.finished(self.output), default=None))
        with ExitStack() as stack:
            stack.enter_context(self.logging(start))
            requests = stack.enter_context(StopRequests(self.config.train.stop_deadline))
            collect = stack.enter_context(GarbageCollection(self.config.train.gc_period))
            stack.enter_context(self.writing())
            self.evaluate_if_owed()
            batches = self.batches()
            for iteration in range(start, self.rates.total_iterations):
                if self.evaluation.ends_training:
                    break
                metrics = self.step(batches, iteration, self.rates.at(iteration))
                if self.is_logged(iteration):
                    self.record(iteration, metrics, self.throughput.read())
                self.show_progress(iteration)
                stop = requests.agreed()
                with self.throughput.paused():
                    if not stop:
                        self.evaluate_if_due(iteration)
                saved = self.save_if_due(iteration, stop)
                if self.writer.publish_if_written() or saved:
                    self.prune_checkpoints()
                collect.after_step()
                if stop:
                    raise RunStopped(stop, iteration)
        if self.writer.asynchronous:  # the last save was not complete inside the loop
            self.prune_checkpoints()
        self.export()

    def build_networks(self, *, own_teacher: bool) -> Any:
        """The networks with a loss (`Trainable`), with initial weights; on meta if they will be sharded."""
        if not is_sharding(self.config):
            return SSLMetaArch(self.config, self.device, own_teacher=own_teacher)
        return build_deferred(lambda: SSLMetaArch(self.config, "meta", own_teacher=own_teacher), self.device)

    def build_evaluation(self) -> Evaluation:
        """What is evaluated while training."""
        return PeriodicEvaluation(self.config, self.device, self.rates.total_iterations)

    def export(self) -> Path:
        """Write what was trained at the end; return its folder. All ranks must call."""
        export_teacher(self.arch, self.output)
        return self.output / TEACHER

    # ---- data and checkpoints -----------------------------------------------------------------

    def batches(self) -> Iterator[dict[str, Any]]:
        """Endless batches from the loader's position on; waiting times are measured."""
        source = iter(self.loader)
        while True:
            with self.throughput.waiting_for(self.config.train.batch_size_per_gpu * get_world_size()):
                batch = next(source)
            yield batch

    def resume(self, checkpoint: int | None) -> int:
        """Load the checkpoint written after that iteration, if any; return the first iteration to do."""
        if checkpoint is None:
            return 0
        folder = self.output / checkpoints.FOLDER / str(checkpoint)
        extra = checkpoints.load(folder, self.arch, self.step.optimizer)
        self.loader.load_state_dict(extra["loader"])
        self.step.scaler.load_state_dict(extra["scaler"])
        self.evaluation.load_state_dict(extra.get(EVALUATION, {}))
        self.owed = checkpoint if extra.get(OWED) else None
        return checkpoint + 1

    def save_if_due(self, iteration: int, stop: int = 0) -> bool:
        """Whether a checkpoint is complete: every `checkpointing.period` iterations and after the last.

        stop: the signal that stops the run, which makes it due. The evaluation that it skips is owed.
        """
        last = iteration + 1 == self.rates.total_iterations
        if (iteration + 1) % self.config.checkpointing.period and not last and not stop:
            return False
        extra: dict[str, Any] = {"loader": self.loader.state_dict(), "scaler": self.step.scaler.state_dict()}
        if state := self.evaluation.state_dict():
            extra[EVALUATION] = state
        if stop and self.evaluation.is_due_after(iteration):
            extra[OWED] = True
        self.writer.save(iteration, self.arch, self.step.optimizer, extra)
        return not self.writer.is_writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """At the end, wait for the checkpoint that is being written: also at a stop, within its deadline."""
        together = False
        try:
            yield
            together = True
        except (RunStopped, TrainingDiverged):  # on all ranks
            together = True
            raise
        finally:
            self.writer.finish(together=together)

    def prune_checkpoints(self) -> None:
        """Delete old checkpoints, by the rules of `config.checkpointing`."""
        rules = self.config.checkpointing
        checkpoints.prune(self.output, rules.max_to_keep, rules.keep_every)

    # ---- logging ------------------------------------------------------------------------------

    @contextmanager
    def logging(self, start: int) -> Iterator[None]:
        """Keep the log files open on rank 0; the other ranks write nothing."""
        if get_rank() == 0:
            self.log = RunLog(self.config, start, self.rates.total_iterations, self.name)
        try:
            yield
        finally:
            if self.log is not None:
                self.log.close()

    def is_logged(self, iteration: int) -> bool:
        """Whether this iteration's metrics are recorded: every `train.log_period` iterations."""
        return bool((iteration + 1) % self.config.train.log_period == 0)

    def record(self, iteration: int, metrics: Mapping[str, Tensor], speed: Mapping[str, float]) -> None:
        """Log the means of scalar metrics over all ranks. A collective: every rank must call."""
        values = torch.stack([value.float() for value in metrics.values()])
        means = (all_reduce_sum(values) / get_world_size()).tolist()
        named = dict(zip(metrics, means, strict=True))
        if self.log is not None:
            self.log.record({"iteration": iteration, **named, **vars(self.rates.at(iteration)), **speed})

    def show_progress(self, iteration: int) -> None:
        if self.log is not None:
            self.log.progress.advance(iteration)

    def evaluate_if_owed(self) -> None:
        """Do the evaluation that a signal prevented, if there was one. A collective."""
        if self.owed is not None:
            self.evaluate_if_due(self.owed)

    def evaluate_if_due(self, iteration: int) -> None:
        """Evaluate the teacher. Call it before `save_if_due`: a run killed in between evaluates again."""
        if not self.evaluation.is_due_after(iteration):
            return
        accuracies = self.evaluation.run(
            self.arch, iteration, None if self.log is None else self.log.evaluations
        )
        if self.log is not None:
            self.log.evaluated(iteration, accuracies)


class Throughput:
    """Images per second and the share of time spent waiting for data, since the last `read`."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._images, self._waited, self._started = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting_for(self, images: int) -> Iterator[None]:
        """Put around the call that fetches a batch of `images`."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began
        self._images += images

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Put around work that is not training: its time does not count."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Return `images_per_second` and `data_share`, and restart."""
        seconds = time.perf_counter() - self._started
        result = {"images_per_second": self._images / seconds, "data_share": self._waited / seconds}
        self._restart()
        return result
