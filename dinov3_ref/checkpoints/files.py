"""Read a checkpoint file or directory: tensors under the file's own names, and the JSON files beside them.

The format is detected from the content, not from the suffix. Pickles are read with `weights_only`, so no
code in them runs: objects of training libraries (options, metrics) become plain dictionaries (`Placeholder`),
any other object is refused. Tensors are memory-mapped where the format allows it.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.checkpoints.folders import WEIGHTS_NAMES, find_weights, refuse_partial
from dinov3_ref.errors import CheckpointError, KeyMismatch, reason_of
from dinov3_ref.json_file import parse_json, read_json

SIDECAR_NAMES = ("config.json", "preprocessor_config.json")
MODEL_CONFIG = "model_config"  # entry of our config.json: all fields of `ViTConfig` or `ConvNeXtConfig`
CONFIG = "config.json"  # also the name under which a file of ours has it inside
HASH_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class RawCheckpoint:
    """The uninterpreted content of a file: `tree` may be nested and hold other objects than tensors."""

    path: Path
    tree: Mapping[str, Any]
    sha256: str
    sidecars: dict[str, dict[str, Any]] = field(default_factory=dict)  # file name -> parsed JSON


def read_checkpoint(path: Path) -> RawCheckpoint:
    """Read a file, or the only checkpoint of a directory. Raises `CheckpointError`."""
    try:
        weights = find_weights(path) if path.is_dir() else path
        if not weights.is_file():
            raise CheckpointError(f"{path} does not exist; wanted a checkpoint file or directory")
        refuse_partial(weights)
        tree: Mapping[str, Any]
        if weights.name.endswith(".index.json"):
            tree, digest = _read_shards(weights)
        else:
            tree, digest = read_tensors(weights), sha256_of(weights)
        own_folder = weights.name in WEIGHTS_NAMES or path.is_dir()
        beside = [weights.parent / name for name in SIDECAR_NAMES] if own_folder else []
        sidecars = {file.name: _read_json(file) for file in beside if file.is_file()}
        if isinstance(own := tree.get(CONFIG), Mapping):
            tree = {key: value for key, value in tree.items() if key != CONFIG}
            sidecars = {CONFIG: dict(own), **sidecars}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from error
    return RawCheckpoint(path, tree, digest, sidecars)


def peek(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(config.json, or empty; names at the top of the file), without hashing it. Raises `CheckpointError`."""
    try:
        weights = find_weights(path) if path.is_dir() else path
        if not weights.is_file():
            raise CheckpointError(f"{path} does not exist; wanted a checkpoint file or directory")
        refuse_partial(weights)
        beside = weights.parent / CONFIG
        own_folder = weights.name in WEIGHTS_NAMES or path.is_dir()
        config = _read_json(beside) if own_folder and beside.is_file() else {}
        if weights.name.endswith(".index.json"):
            return config, tuple(_read_json(weights).get("weight_map", {}))
        return config, tuple(read_tensors(weights))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from error


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file that has the permissions of any new file.

    The package makes one that only its owner may read.
    """
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    with suppress(PermissionError):  # FAT and some shares keep no modes
        path.chmod(mode)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, streamed."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_tensors(path: Path) -> Mapping[str, Any]:
    """The content of one file: safetensors, or torch.save. Raises CheckpointError or OSError."""
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _read_pickle(path, mmap=True)
    # safetensors: eight bytes of header length, then JSON. Checked before pickle: a length may also begin
    # with 0x80.
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head[:1] == b"\x80":
        return _read_pickle(path, mmap=False)  # torch.save before 1.6 cannot be mapped
    raise CheckpointError(f"{path} {_wrong_content(head)}; wanted safetensors or a torch.save file")


def _wrong_content(head: bytes) -> str:
    """Name the kind of file that was found instead of a checkpoint."""
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file it points to (git lfs pull)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page or an error answer, not weights (the download link may have expired)"
    return "is not a checkpoint"


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            tree: dict[str, Any] = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            text = (stream.metadata() or {}).get(CONFIG)
    except Exception as error:  # a damaged header may name unknown types
        raise CheckpointError(
            f"{path} is a damaged or truncated safetensors file ({reason_of(error)}); fetch it again"
        ) from error
    return tree if text is None else {**tree, CONFIG: _object(parse_json(text, str(path), "metadata"), path)}


# Modules whose objects stand beside the weights of training runs: options, paths, metrics, numpy scalars.
HARMLESS_MODULES = frozenset(
    (
        *("__main__", "_codecs", "argparse", "collections", "datetime", "enum", "pathlib", "typing"),
        *("accelerate", "deepspeed", "lightning", "lightning_fabric", "lightning_utilities", "mmcv"),
        *("mmengine", "numpy", "omegaconf", "pytorch_lightning", "timm", "torchmetrics", "transformers"),
    )
)
HARMLESS_TYPES = frozenset(f"builtins.{name}" for name in "int float str bool list dict set".split())  # noqa: SIM905


class NoNumber:
    """Stands for numpy's scalars and dtypes in a pickle, and keeps nothing of them."""

    def __init__(self, *arguments: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...


class Placeholder:
    """Stands for the class of an object in a pickle: makes a plain dictionary and runs nothing.

    An OrderedDict, because torch's unpickler lets one take both items and attributes.
    """

    def __new__(cls, *arguments: Any, **named: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _read_pickle(path: Path, *, mmap: bool) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_placeholders(path)):
            warnings.simplefilter("ignore")  # about old storage classes and TorchScript: checked below
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle may raise any class
        if refused := re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} holds Python objects beside tensors ({refused[1] or refused[2]}), which could run "
                "code, and was not opened; re-save it with torch.save(model.state_dict(), ...)"
            ) from error
        raise CheckpointError(
            f"{path} is a damaged or truncated torch.save file ({reason_of(error)}); fetch it again"
        ) from error
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{path} holds a {type(tree).__name__}; wanted a dictionary of tensors")
    return tree


def _placeholders(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What to put in place of the objects in `path` that weights_only does not know, if all are harmless."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip file, or damaged: reading it says so
        return []
    if any(name not in HARMLESS_TYPES and name.partition(".")[0] not in HARMLESS_MODULES for name in names):
        return []
    kinds = {name: NoNumber if name.startswith("numpy") else Placeholder for name in names}
    return [(type(kind.__name__, (kind,), {}), name) for name, kind in kinds.items()]


def shards_of(index_path: Path) -> list[str]:
    """Shard file names of an index, sorted. Raises `CheckpointError` for a name outside the directory."""
    weight_map = _read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path} has no weight_map; wanted tensor name -> shard file name")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        if shard != Path(shard).name or "\\" in shard or shard in ("", ".", ".."):
            raise CheckpointError(
                f"{index_path} points outside its directory ({shard!r}); wanted bare file names"
            )
    return shards


def _read_shards(index_path: Path) -> tuple[dict[str, Any], str]:
    """Tensors of a sharded checkpoint, and the hash of its sorted "name sha256" lines."""
    tree: dict[str, Any] = {}
    lines = []
    weight_map = _read_json(index_path).get("weight_map", {})
    for shard in shards_of(index_path):
        path = index_path.parent / shard
        if not path.is_file():
            raise CheckpointError(f"{index_path} names {shard}, which is not beside it; fetch it again")
        tensors = read_tensors(path)
        _check_against_index(tensors, weight_map, path)
        tree.update(tensors)
        lines.append(f"{shard} {sha256_of(path)}\n")
    return tree, hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_against_index(tensors: Mapping[str, Any], weight_map: Mapping[str, Any], path: Path) -> None:
    promised = {name for name, shard in weight_map.items() if shard == path.name}
    wrong = sorted(promised ^ set(tensors))
    if wrong:
        where = "only in the index" if wrong[0] in promised else "only in the shard"
        raise KeyMismatch(f"{path} and its index disagree on {len(wrong)} tensors: {wrong[0]} is {where}")


def _read_json(path: Path) -> dict[str, Any]:
    return _object(read_json(path, "config"), path)


def _object(data: Any, path: Path) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}; wanted a JSON object")
    return data


def json_number(document: Mapping[str, Any], key: str) -> float | None:
    """A number in a JSON file, or None if it is missing. Raises `CheckpointError` for another type."""
    value = document.get(key)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise CheckpointError(f"config.json says {key} {value!r}; wanted a number")


def json_object(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object in a JSON file; empty if it is missing or not an object."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}
