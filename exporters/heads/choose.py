"""The head of an export: one that was asked for, or the one that the checkpoint holds beside its backbone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from dinodeploy.errors import MisuseError
from dinodeploy.text.labels import labels_of
from dinov3_ref.checkpoints import Checkpoint
from dinov3_ref.checkpoints.unwrap import notes_on_rest
from dinov3_ref.heads import LoadedHead, head_beside
from exporters.heads.add_head import find_head

NO_HEAD = "none"


def choose_head(
    checkpoint: Checkpoint,
    asked: str | None,
    *,
    pooling: str | None = None,
    classes: str | os.PathLike[str] | Sequence[str] = (),
) -> tuple[Checkpoint, LoadedHead | None]:
    """The checkpoint without a note on what now comes along, and its head or None.

    asked: a head file, `pyramid:…`, "none" for the backbone alone, or None for what the checkpoint holds.
    pooling: of a classifier in the checkpoint. classes: names for those of any head, or a text file with one
    a line. Raises MisuseError where they fit no head.
    """
    given = os.fspath(classes) if isinstance(classes, os.PathLike) else classes
    names = labels_of(given).names if given else ()
    if asked is None:
        loaded = head_beside(checkpoint, pooling=pooling, classes=names)
        left_out = set(notes_on_rest(checkpoint.beside)) if loaded is not None else set()
        notes = tuple(note for note in checkpoint.notes if note not in left_out)
        checkpoint = replace(checkpoint, notes=notes)
    elif asked == NO_HEAD:
        loaded = None
    else:
        config = checkpoint.config
        loaded = find_head(asked, config.embed_dim, config.depth, config.stride)
    if pooling is not None and (loaded is None or asked is not None):
        raise MisuseError(
            f"pooling is for a classifier inside the weights; {checkpoint.source} gives none here"
        )
    if names:
        _name_classes(loaded, names, checkpoint.source)
    return checkpoint, loaded


def _name_classes(loaded: LoadedHead | None, classes: Sequence[str], source: str) -> None:
    """Give the classes of a head their names. Raises MisuseError unless it has so many."""
    head = loaded.head if loaded is not None else None
    if head is None or head.task not in ("classify", "regress", "segment"):
        raise MisuseError(
            f"class names were given, but {source} has no classifier; leave them out, or add --head"
        )
    count = next(iter(head.outputs.values()))[1]
    if len(classes) != count:
        raise MisuseError(
            f"got {len(classes)} class names; the head has {count} classes, wanted one for each"
        )
    head.classes = tuple(classes)
