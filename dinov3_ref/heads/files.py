"""Head files: our format, and the released ones (`official.py`).

Our format is safetensors: the tensors of the head, and in the metadata "dinodeploy.head" a JSON object:

    format           1
    kind             a key of KINDS
    config           constructor arguments
    classes          names by index, or []
    backbone_sha256  of the checkpoint that the head was trained on, "" where unknown
    licence          of the head's weights, as text
    trained          scores of the training, for information

`dinodeploy train-head` writes this format without torch (`dinodeploy/heads/train.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from dinov3_ref.checkpoints.files import read_checkpoint, write_safetensors
from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values
from dinov3_ref.errors import CheckpointError, ConfigError, reason_of
from dinov3_ref.heads.depth import LinearDepth
from dinov3_ref.heads.dpt import DPTDepth
from dinov3_ref.heads.head import Head
from dinov3_ref.heads.linear import (
    LinearClassifier,
    LinearRegressor,
    LinearSegmenter,
    MultiLabelClassifier,
)
from dinov3_ref.heads.official import OFFICIAL_LICENCE, official_head
from dinov3_ref.heads.pyramid import FeaturePyramid
from dinov3_ref.json_file import parse_json

FORMAT = 1
METADATA_KEY = "dinodeploy.head"
UNSTATED = "not stated"

KINDS: dict[str, type[Head]] = {
    "linear_classifier": LinearClassifier,
    "multi_label_classifier": MultiLabelClassifier,
    "linear_regressor": LinearRegressor,
    "linear_segmenter": LinearSegmenter,
    "linear_depth": LinearDepth,
    "dpt_depth": DPTDepth,
    "feature_pyramid": FeaturePyramid,
}
_FIELDS: dict[str, type] = {
    "format": int,
    "kind": str,
    "config": dict,
    "classes": list,
    "backbone_sha256": str,
    "licence": str,
    "trained": dict,
}


@dataclass(frozen=True, eq=False)
class LoadedHead:
    """A head and its provenance."""

    head: Head
    kind: str  # key of KINDS, or the class name of a custom head
    source: str
    sha256: str = ""  # of the file
    backbone_sha256: str = ""  # of the backbone's checkpoint, where known
    licence: str = UNSTATED
    trained: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def save_head(
    head: Head,
    path: Path,
    *,
    backbone_sha256: str = "",
    licence: str = UNSTATED,
    trained: Mapping[str, Any] | None = None,
) -> None:
    """Write a head of one of `KINDS`. Raises ConfigError for a custom class, which has no file format."""
    about = describe_head(head, backbone_sha256=backbone_sha256, licence=licence, trained=trained)
    tensors = {name: tensor.detach().contiguous() for name, tensor in stored_tensors(head).items()}
    write_safetensors(tensors, path, metadata={METADATA_KEY: json.dumps(about, sort_keys=True)})


def describe_head(
    head: Head,
    *,
    backbone_sha256: str = "",
    licence: str = UNSTATED,
    trained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object of our format. Raises ConfigError for a custom class, which has no file format."""
    kind = next((name for name, cls in KINDS.items() if type(head) is cls), None)
    if kind is None:
        raise ConfigError(f"{type(head).__name__} has no file format; wanted one of {', '.join(KINDS)}")
    return {
        "format": FORMAT,
        "kind": kind,
        "config": head.config(),
        "classes": list(head.classes),
        "backbone_sha256": backbone_sha256,
        "licence": licence,
        "trained": dict(trained or {}),
    }


def load_head(path: Path) -> LoadedHead:
    """Read a head file, ours or a released one, with strict checks.

    Raises CheckpointError for a file that is not a head, KeyMismatch for missing, extra or misshapen tensors,
    ForeignCheckpoint for a released head of an unsupported kind.
    """
    raw = read_checkpoint(path)
    about = _metadata(path)
    if about is None:
        head, kind, notes = official_head(raw.tree, path.name)
        return LoadedHead(head.eval(), kind, path.name, raw.sha256, licence=OFFICIAL_LICENCE, notes=notes)
    return described_head(about, dict(raw.tree), path.name, raw.sha256)


def described_head(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str, sha256: str
) -> LoadedHead:
    """The head that a checked JSON object of our format describes, with its tensors.

    Raises CheckpointError, or KeyMismatch for missing, extra or misshapen tensors. name: for messages.
    """
    head = _build(about, name)
    check_keys(tensors, {key: tuple(t.shape) for key, t in stored_tensors(head).items()}, name)
    check_values(tensors, name)
    head.load_state_dict(tensors, strict=False)  # checked above; lacks the step counters of batch norms
    return LoadedHead(
        head.eval().float(),
        about["kind"],
        name,
        sha256,
        about["backbone_sha256"],
        about["licence"],
        about["trained"],
    )


def stored_tensors(head: Head) -> dict[str, Tensor]:
    """The tensors of a file: all but the step counters of batch norms, which inference does not use."""
    return {name: t for name, t in head.state_dict().items() if not name.endswith("num_batches_tracked")}


def _metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of our format, or None. Raises CheckpointError for broken metadata."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        if stream.read(9)[8:] != b"{":  # not safetensors
            return None
    with safe_open(path, framework="pt") as tensors:
        text = (tensors.metadata() or {}).get(METADATA_KEY)
    if text is None:
        return None
    return check_about(parse_json(text, f"{path}: {METADATA_KEY}", "metadata"), str(path))


def check_about(about: Any, path: str) -> dict[str, Any]:
    """The JSON object of our format, if it is one. Raises CheckpointError. path: for messages."""
    if not isinstance(about, dict) or about.keys() != _FIELDS.keys():
        raise CheckpointError(
            f"{path}: its {METADATA_KEY} has other fields; wanted exactly {', '.join(_FIELDS)}"
        )
    for name, kind in _FIELDS.items():
        if type(about[name]) is not kind:
            raise CheckpointError(f"{path}: {METADATA_KEY} {name} is {about[name]!r}; wanted {kind.__name__}")
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} is a head of format {about['format']}; this version reads {FORMAT}")
    return about


def _build(about: Mapping[str, Any], path: str) -> Head:
    if about["kind"] not in KINDS:
        raise CheckpointError(f"{path} is a head of kind {about['kind']!r}; known: {', '.join(KINDS)}")
    classes = {"classes": tuple(map(str, about["classes"]))} if about["classes"] else {}
    try:
        return KINDS[about["kind"]](**about["config"], **classes)
    except (TypeError, ValueError, RuntimeError) as error:  # ConfigError is a ValueError
        raise CheckpointError(
            f"{path}: its config does not fit a {about['kind']}: {reason_of(error)}"
        ) from error
