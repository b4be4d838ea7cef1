"""Recognise a whole model by its config.json or its keys, and load it strictly.

Each kind has a row in `KINDS` and a function of its own module that turns the file's content into a
`LoadedTask`. The function checks every key and shape.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinov3_ref.checkpoints.checkpoint import Channels
from dinov3_ref.checkpoints.files import CONFIG, RawCheckpoint, peek, read_checkpoint
from dinov3_ref.tasks.task_model import TaskModel

IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A whole model and what is known about its origin and its input."""

    model: TaskModel
    kind: str  # name in KINDS
    arch: str  # of the backbone: a key of ARCHITECTURES, or "custom"
    source: str  # path or hub id, for display
    sha256: str
    layout: str  # hf, official …
    dataset: str | None = None  # lvd1689m | sat493m: what the backbone was trained on, where known
    size: tuple[int, int] | None = None  # usual input H, W in pixels
    mean: Channels = IMAGENET[0]
    std: Channels = IMAGENET[1]
    preset: str = "hf"  # how an image becomes the input: a name of `dinodeploy.images.preprocess.PRESETS`
    licence: str | None = None  # of the weights, where a file beside them names one
    notes: tuple[str, ...] = ()  # what was assumed, filled in or left out, one line each


@dataclass(frozen=True)
class TaskKind:
    """One kind of whole model: how its files are recognised, and the function that loads them."""

    name: str
    loader: str  # module:function, imported when needed; takes a RawCheckpoint, returns a LoadedTask
    model_types: tuple[str, ...] = ()  # of config.json
    architectures: tuple[str, ...] = ()  # of config.json
    keys: tuple[str, ...] = field(default=())  # patterns; a file without config.json has a key for each

    def matches(self, config: Mapping[str, Any], names: Collection[str]) -> bool:
        """Whether a file with this config.json (may be empty) and these keys is of this kind."""
        if config.get("model_type") in self.model_types:
            return not self.architectures or self._is_named(config)
        if not self.model_types and self.architectures and self._is_named(config):
            return True
        return bool(self.keys) and all(any(re.fullmatch(key, name) for name in names) for key in self.keys)

    def _is_named(self, config: Mapping[str, Any]) -> bool:
        named = config.get("architectures") or ()
        return any(name in self.architectures for name in named)


# Each kind of whole model, in the order tried.
KINDS: tuple[TaskKind, ...] = (
    TaskKind("deimv2", "dinov3_ref.tasks.deimv2.load:load", model_types=("deimv2",)),
    TaskKind("eomt", "dinov3_ref.tasks.eomt_files:load_eomt", model_types=("eomt_dinov3",)),
)


def recognise(path: Path) -> TaskKind | None:
    """The kind of whole model at `path` (a file or a folder), or None: then it may be a backbone.

    Reads the names of the tensors and config.json, no weights. Raises `CheckpointError`.
    """
    config, names = peek(path)
    return next((kind for kind in KINDS if kind.matches(config, names)), None)


def load_task_model(path: Path) -> LoadedTask | None:
    """The whole model at `path`, or None for any other file. Raises `CheckpointError`."""
    kind = recognise(path)
    if kind is None:
        return None
    module, _, name = kind.loader.partition(":")
    load: Callable[[RawCheckpoint], LoadedTask] = getattr(importlib.import_module(module), name)
    loaded = load(read_checkpoint(path))
    loaded.model.eval().check()
    return loaded


def config_of(raw: RawCheckpoint) -> dict[str, Any]:
    """The config.json beside the weights, or an empty one."""
    return raw.sidecars.get(CONFIG, {})
