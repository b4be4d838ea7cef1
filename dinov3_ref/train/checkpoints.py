"""Checkpoints of a run: torch's distributed format, written atomically.

Source: docs/spec.md 4.16.

    <output>/ckpt/<iteration>/     written under a hidden name, then renamed

A checkpoint holds student, EMA and Gram teacher, loss centres, optimiser, loss scale and the position in the
data. It needs no random number state: steps are seeded by their iteration. A run may resume on another number
of ranks.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
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
OPTIONS = StateDictOptions(strict=False)


def save(output: Path, iteration: int, networks: Trainable, optimizer: Optimizer, extra: Any) -> Path:
    """Write the state after `iteration`; `extra` is JSON data, equal on all ranks. All ranks must call."""
    target = output / FOLDER / str(iteration)
    draft = target.with_name(_from_rank_0(hidden_name(target).name))
    if get_rank() == 0:
        for path in leftovers(target):  # of a run that was killed here
            remove(path)
    with _without_group() as no_dist:
        state_dict_saver.save(_state(networks, optimizer), checkpoint_id=draft, no_dist=no_dist)
    if get_rank() == 0:
        (draft / EXTRA_FILE).write_text(json.dumps(extra), encoding="utf-8")
        publish(draft, target)
    _wait()
    return target


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
        reason = str(error).strip().splitlines()[-1]
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
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninit")
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
