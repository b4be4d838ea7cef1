"""Train several students of one frozen teacher; the teacher sees each batch once (docs/spec.md 4.17).

    <output>/config.yaml         the whole configuration
    <output>/students/<name>/    what a run of one student writes, one folder per student

The published code gives each student a share of the ranks. Here every rank trains all students in turn, so
one rank is enough and every student sees the whole global batch. Each student is bit for bit the student of a
distillation run of its own; the students share only the images and the teacher's targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dinov3_ref.configs import student_configs
from dinov3_ref.distributed import get_rank
from dinov3_ref.errors import CheckpointError
from dinov3_ref.train import checkpoints
from dinov3_ref.train.distributed.devices import autocast
from dinov3_ref.train.export_teacher import export_teacher
from dinov3_ref.train.garbage import GarbageCollection
from dinov3_ref.train.logging.run_log import CONFIG_FILE
from dinov3_ref.train.loop import Loader, TrainingRun
from dinov3_ref.train.networks.training_networks import TARGETS
from dinov3_ref.train.stop_requests import RunStopped, StopRequests


def train_students(config: Any, loader: Loader, device: torch.device | str = "cpu") -> list[Path]:
    """Train the students of `config.multidistillation`; return the folder of each.

    Raises `ConfigError`, `DataError`, `CheckpointError`, `TrainingDiverged` when losses stay NaN, and
    `RunStopped` when a signal ended it after a checkpoint.
    """
    runs = [
        TrainingRun(own, loader, device, name=name, own_teacher=index == 0)
        for index, (name, own) in enumerate(student_configs(config).items())
    ]
    if get_rank() == 0:
        output = Path(config.train.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, output / CONFIG_FILE)
    train_together(runs)
    return [run.output for run in runs]


def train_together(runs: Sequence[TrainingRun]) -> None:
    """`TrainingRun.train` for several runs, step by step in turn.

    The first run draws the batches and has the teacher. Starts from the newest checkpoint that all runs have.
    """
    leader = runs[0]
    start = _resume_together(runs)
    with ExitStack() as logs:
        for run in runs:
            logs.enter_context(run.logging(start))
        requests = logs.enter_context(StopRequests(leader.config.train.stop_deadline))
        collect = logs.enter_context(GarbageCollection(leader.config.train.gc_period))
        for run in runs:
            logs.enter_context(run.writing())
        for run in runs:
            run.evaluate_if_owed()
        batches = leader.batches()
        for iteration in range(start, leader.rates.total_iterations):
            count = leader.config.train.accumulation_steps
            shared = [_with_targets(leader, next(batches), iteration) for _ in range(count)]
            metrics = [run.step(iter(shared), iteration, run.rates.at(iteration)) for run in runs]
            if leader.is_logged(iteration):
                speed = leader.throughput.read()
                for run, own in zip(runs, metrics, strict=True):
                    run.record(iteration, own, speed)
            stop = requests.agreed()
            with leader.throughput.paused():
                for run in runs if not stop else ():
                    run.evaluate_if_due(iteration)
            saved = [run.save_if_due(iteration, stop) for run in runs]
            published = [run.writer.publish_if_written() for run in runs]
            # delete old checkpoints only when every new one is complete
            if (all(saved) or any(published)) and not any(run.writer.is_writing for run in runs):
                for run in runs:
                    run.prune_checkpoints()
            collect.after_step()
            if stop:
                raise RunStopped(stop, iteration)
    for run in runs:
        if run.writer.asynchronous:  # the last save was not complete inside the loop
            run.prune_checkpoints()
        export_teacher(run.arch, run.output)


def _with_targets(leader: TrainingRun, batch: dict[str, Any], iteration: int) -> dict[str, Any]:
    """The batch and its teacher targets."""
    with autocast(leader.config, leader.device):
        targets = leader.arch.get_targets(batch, teacher_temp=leader.rates.at(iteration).teacher_temp)
    return batch | {TARGETS: targets}


def _resume_together(runs: Sequence[TrainingRun]) -> int:
    """Load the newest checkpoint that all runs have; return the first iteration to do.

    Runs that were killed while they wrote their first checkpoints start again. Raises `CheckpointError` when
    one run is further: it must not be overwritten.
    """
    done = [checkpoints.finished(run.output) for run in runs]
    if common := set(done[0]).intersection(*done):
        for run in runs:
            run.resume(max(common))
        return max(common) + 1
    first = min(runs[0].config.checkpointing.period, runs[0].rates.total_iterations) - 1
    newest = sorted((max(own, default=-1), run.name) for run, own in zip(runs, done, strict=True))
    (_, behind), (iteration, ahead) = newest[0], newest[-1]
    if iteration > first:
        raise CheckpointError(
            f"students {ahead} and {behind} have no checkpoint in common ({ahead} is at {iteration}); "
            "students that train together must start together: choose another train.output_dir, or remove one"
        )
    return 0
