"""Errors of the reference package.

    Dinov3Error
    ├── ConfigError            2  a configuration that describes no model
    ├── CheckpointError        2  a file that cannot be read as a DINOv3 checkpoint
    │   ├── ForeignCheckpoint  2  readable, but some other model (DINOv1/v2, a head, a text tower)
    │   ├── KeyMismatch        2  tensors missing, left over, or of another shape
    │   └── ArchMismatch       2  the file holds another architecture than the one asked for
    ├── DataError              2  images, labels or arrays that cannot be used
    │   └── BrokenImage        2  one image that cannot be decoded: loaders skip and count it
    ├── HubError               4  the hub, the network or a permission is missing
    └── TrainingDiverged       1  the loss stayed NaN or infinite

    CheckpointWarning             weights were loaded into a model that is not quite theirs

Messages are one line: what, got, wanted, mend. `exit_code` is what a command line should end in.
"""

from __future__ import annotations


def reason_of(error: BaseException, limit: int = 200) -> str:
    """Why another library failed, in one line: the system's words or the first line, else the class."""
    system = error.strerror if isinstance(error, OSError) else None
    text = (system or str(error)).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:limit]


class Dinov3Error(Exception):
    """Base of all errors of `dinov3_ref`."""

    exit_code = 2


class ConfigError(Dinov3Error, ValueError):
    """A configuration that describes no model."""


class CheckpointError(Dinov3Error):
    """A file that cannot be read as a DINOv3 checkpoint."""


class ForeignCheckpoint(CheckpointError):
    """A readable checkpoint of some other model."""


class KeyMismatch(CheckpointError):
    """Tensors are missing, left over, or have another shape."""


class ArchMismatch(CheckpointError):
    """The file holds another architecture than the one asked for."""


class DataError(Dinov3Error):
    """Images, labels or arrays that cannot be used."""


class BrokenImage(DataError):
    """One image cannot be decoded."""


class HubError(Dinov3Error):
    """Weights cannot be had from the hub."""

    exit_code = 4


class TrainingDiverged(Dinov3Error):
    """The loss or its gradients stayed NaN or infinite."""

    exit_code = 1


class CheckpointWarning(UserWarning):
    """Weights were loaded into a model that was built otherwise; says what was done about it."""
