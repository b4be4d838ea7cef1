"""Checkpoints of a run: torch's distributed format, written atomically.

Source: docs/spec.md 4.16.

    <output>/ckpt/<iteration>/     written under a hidden name, then renamed

With `checkpointing.asynchronous` a save copies the state to the host's memory and returns; a thread writes it
while the training goes on. Rank 0 renames the folder when every rank has written its part.

A checkpoint holds student, EMA and Gram teacher, loss centres, optimiser, loss scale and the position in the
data. It needs no random number state: steps are seeded by their iteration. A run may resume on another number
of ranks.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from dinov3_ref.atomic import hidden_name, leftovers, publish, remove
from dinov3_ref.distributed import get_rank, get_world_size
from dinov3_ref.errors import CheckpointError
from dinov3_ref.json_file import read_json
from dinov3_ref.train.networks.trainable import Trainable

FOLDER = "ckpt"
EXTRA_FILE = "run.json"
GRAM_TEACHER = "gram_teacher."
WITHOUT_GROUP = "torch.distributed is disabled, unavailable or uninit"  # a warning of torch
OPTIONS = StateDictOptions(strict=False)


class CheckpointWriter:
    """Writes the checkpoints of the run in `output`, one at a time."""

    def __init__(self, output: Path, *, asynchronous: bool = False) -> None:
        self.output = output
        self.asynchronous = asynchronous
        self._written: Future[Any] | None = None  # of the save that is not published yet
        self._draft, self._target, self._extra = output, output, ""
        self._group: dist.ProcessGroup | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a save was begun that is not published."""
        return self._written is not None

    def save(self, iteration: int, networks: Trainable, optimizer: Optimizer, extra: Any) -> None:
        """Write the state after `iteration`, or begin to; `extra` is JSON data, equal on all ranks.

        All ranks must call. Waits for the save before it. Raises `CheckpointError` if the writing failed.
        """
        self.finish()
        self._target = self.output / FOLDER / str(iteration)
        self._draft = self._target.with_name(_from_rank_0(hidden_name(self._target).name))
        self._extra = json.dumps(extra)
        if get_rank() == 0:
            for path in leftovers(self._target):  # of a run that was killed here
                remove(path)
        state = _state(networks, optimizer)
        if self.asynchronous:
            self._written = self._begin(state)
            return
        with _without_group() as no_dist, self._one_line():
            state_dict_saver.save(state, checkpoint_id=self._draft, no_dist=no_dist)
        self._publish()
        _wait()

    def publish_if_written(self) -> bool:
        """Whether a save was published by this call: rank 0 does, when all parts are on disk.

        Call it after every iteration, on any rank. Raises `CheckpointError` if the writing failed.
        """
        if self._written is None or not self._written.done():
            return False
        written, self._written = self._written, None
        with self._one_line():
            written.result()  # the coordinator is done last: after the parts of all ranks
        self._publish()
        return True

    def finish(self, *, together: bool = True) -> None:
        """Wait until a save that was begun is published.

        together: all ranks call, and none returns before rank 0 has published.
        """
        if self._written is not None:
            wait([self._written])
            self.publish_if_written()
        if self.asynchronous and together:
            _wait()

    def _begin(self, state: dict[str, Any]) -> Future[Any]:
        no_dist = get_world_size() == 1
        if no_dist:  # the warning comes from the thread that writes
            warnings.filterwarnings("ignore", message=WITHOUT_GROUP)
        elif self._group is None:  # of its own: the training's collectives go on meanwhile
            self._group = dist.new_group(backend="gloo")
        begun = state_dict_saver.async_save(
            state, checkpoint_id=self._draft, process_group=self._group, no_dist=no_dist
        )
        assert isinstance(begun, Future)
        return begun

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (CheckpointException, OSError, RuntimeError) as error:
            reason = _last_line(error)
            raise CheckpointError(
                f"the checkpoint {self._target} could not be written ({reason}); the one before it is whole"
            ) from error

    def _publish(self) -> None:
        if get_rank() == 0:
            (self._draft / EXTRA_FILE).write_text(self._extra, encoding="utf-8")
            publish(self._draft, self._target)


def load(folder: Path, networks: Trainable, optimizer: Optimizer) -> Any:
    """Load a checkpoint into networks and optimiser; return the `extra` of `save`.

    If it is of a stage before Gram anchoring, the Gram teacher starts as at the start of a run.
    Raises `CheckpointError` for a checkpoint that is damaged or of another model.
    """
    state = _state(networks, optimizer)
    try:
        extra = read_json(folder / EXTRA_FILE, "state")
        stored = FileSystemReader(folder).read_metadata().state_dict_metadata
        has_gram_teacher = any(key.startswith(f"model.{GRAM_TEACHER}") for key in stored)
        if not has_gram_teacher:
            state["model"] = {key: t for key, t in state["model"].items() if not key.startswith(GRAM_TEACHER)}
        with _without_group() as no_dist:
            state_dict_loader.load(state, checkpoint_id=folder, no_dist=no_dist)
    except (CheckpointException, CheckpointError, OSError, RuntimeError, ValueError, KeyError) as error:
        reason = _last_line(error)
        raise CheckpointError(
            f"{folder} cannot be resumed ({reason}); it is damaged or of another configuration: "
            "choose another train.output_dir, or delete it"
        ) from error
    model, optim = state["model"], state["optimizer"]
    set_state_dict(networks, optimizer, model_state_dict=model, optim_state_dict=optim, options=OPTIONS)
    if not has_gram_teacher:
        networks.load_gram_teacher()
    return extra


def finished(output: Path) -> list[int]:
    """Iterations of the complete checkpoints of a run, ascending."""
    folder = output / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def prune(output: Path, max_to_keep: int, keep_every: int | None) -> None:
    """Keep the newest `max_to_keep` checkpoints and every `keep_every`-th; rank 0 deletes the others."""
    if get_rank() != 0:
        return
    for iteration in finished(output)[:-max_to_keep]:
        if keep_every is None or (iteration + 1) % keep_every:
            shutil.rmtree(output / FOLDER / str(iteration))


def _state(networks: Trainable, optimizer: Optimizer) -> dict[str, Any]:
    model, optim = get_state_dict(networks, optimizer, options=OPTIONS)
    stored = {name: value for name, value in model.items() if networks.is_stored(name)}
    return {"model": stored, "optimizer": optim}


@contextmanager
def _without_group() -> Iterator[bool]:
    """Whether there is no process group; hides torch's warning about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=WITHOUT_GROUP)
        yield get_world_size() == 1


def _from_rank_0(text: str) -> str:
    """The text of rank 0, on every rank."""
    texts = [text]
    if get_world_size() > 1:
        dist.broadcast_object_list(texts)
    return texts[0]


def _wait() -> None:
    if get_world_size() > 1:
        dist.barrier()


def _last_line(error: BaseException) -> str:
    """Why torch failed: it names the cause last; the class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
