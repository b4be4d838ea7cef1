"""Errors of the reference package.

    Dinov3Error
    ├── ConfigError            2  an invalid configuration
    ├── CheckpointError        2  a file that cannot be read as a DINOv3 checkpoint
    │   ├── ForeignCheckpoint  2  readable, but another model (DINOv1/v2, a head, a text tower)
    │   ├── KeyMismatch        2  tensors missing, unexpected, or of another shape
    │   └── ArchMismatch       2  another architecture than the requested one
    ├── DataError              2  unusable images, labels or arrays
    │   └── BrokenImage        2  one image cannot be decoded: loaders skip and count it
    ├── HubError               4  the hub, the network or a permission failed
    └── TrainingDiverged       1  the loss stayed NaN or infinite

    CheckpointWarning             weights were adapted to a model that was built differently

Messages are one line: what, got, wanted, fix. `exit_code` is the exit code of command lines.
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
    """An invalid configuration."""


class CheckpointError(Dinov3Error):
    """A file that cannot be read as a DINOv3 checkpoint."""


class ForeignCheckpoint(CheckpointError):
    """A readable checkpoint of another model."""


class KeyMismatch(CheckpointError):
    """Tensors are missing, unexpected, or of another shape."""


class ArchMismatch(CheckpointError):
    """The file holds another architecture than the requested one."""


class DataError(Dinov3Error):
    """Unusable images, labels or arrays."""


class BrokenImage(DataError):
    """One image cannot be decoded."""


class HubError(Dinov3Error):
    """Weights cannot be fetched from the hub."""

    exit_code = 4


class TrainingDiverged(Dinov3Error):
    """Loss or gradients stayed NaN or infinite."""

    exit_code = 1


class CheckpointWarning(UserWarning):
    """Weights were loaded into a model that was built differently; the message tells what was adapted."""
