"""The listing of a shard, listing/listing_00012.safetensors: the images it was made from, in order.

    ids, ends     the ids end to end as UTF-8, and where each ends
    stamps        [n, 3] int64: size in bytes, modification time in ns, hash of the origin; -1: unknown
    absent        [n] uint8: 1 where the image is gone and its row was kept (`--keep-missing`)
    sha256        [n, 32] uint8: hash of the encoded image, with `--identify hash`; zeros: unknown
    quarantined   (metadata) {position in the shard: reason} of the images without a row

Rows of a shard are its images in this order, without the quarantined ones.

Shapes: n images of a shard.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import AnyArray, ByteArray, IndexArray
from dinodeploy.errors import BundleError
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.tensors import load_tensors, read_metadata, save_tensors

_ENCODING = ("utf-8", "surrogatepass")  # ids are any Python strings


@dataclass(frozen=True)
class Listing:
    """The images of one shard."""

    ids: Sequence[str]
    stamps: IndexArray
    absent: ByteArray
    quarantined: dict[int, str]
    sha256: ByteArray | None = None

    def has_row(self) -> AnyArray:
        """[n] bool: which images have a row."""
        found = np.ones(len(self.ids), bool)
        found[list(self.quarantined)] = False
        return found


def listing_file(number: int) -> str:
    return f"listing/listing_{number:05d}.safetensors"


def write_listing(path: Path, listing: Listing) -> None:
    names = [id_.encode(*_ENCODING) for id_ in listing.ids]
    tensors: dict[str, AnyArray] = {
        "ids": np.frombuffer(b"".join(names), np.uint8),
        "ends": np.cumsum([len(name) for name in names], dtype=np.int64),
        "stamps": np.asarray(listing.stamps, np.int64),
        "absent": np.asarray(listing.absent, np.uint8),
    }
    if listing.sha256 is not None:
        tensors["sha256"] = listing.sha256
    path.parent.mkdir(exist_ok=True)
    reasons = json.dumps({str(position): reason for position, reason in listing.quarantined.items()})
    save_tensors(path, tensors, {"quarantined": reasons})


def read_listing(path: Path) -> Listing:
    """Raises BundleError for a file that is no listing."""
    tensors = load_tensors(path)
    reasons = parse_json(read_metadata(path).get("quarantined", "{}"), f"{path}: quarantined", "ids")
    problem = _misfit(tensors, reasons)
    if problem:
        raise BundleError(f"{path}: {problem}, wanted the listing of a shard")
    text, ends = tensors["ids"].tobytes(), tensors["ends"].tolist()
    try:
        ids = [text[start:end].decode(*_ENCODING) for start, end in zip([0, *ends], ends, strict=False)]
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: an id is not UTF-8, wanted the listing of a shard") from error
    quarantined = {int(position): reason for position, reason in reasons.items()}
    return Listing(ids, tensors["stamps"], tensors["absent"], quarantined, tensors.get("sha256"))


def _misfit(tensors: dict[str, AnyArray], reasons: object) -> str:
    """What is wrong with a listing as read from disk, or an empty string."""
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "ids": (np.uint8, ()),
        "ends": (np.int64, ()),
        "stamps": (np.int64, (3,)),
        "absent": (np.uint8, ()),
        "sha256": (np.uint8, (32,)),
    }
    if not {"ids", "ends", "stamps", "absent"} <= set(tensors) <= set(shapes):
        return f"got the tensors {', '.join(sorted(tensors))}"
    count = len(tensors["ends"]) if tensors["ends"].ndim else -1
    for name, array in tensors.items():
        dtype, shape = shapes[name]
        length = len(tensors["ids"]) if name == "ids" and array.ndim else count
        if array.dtype != dtype or array.shape != (length, *shape):
            return f"got {name} of {array.dtype} {list(array.shape)}"
    ends = tensors["ends"]
    if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if count else 0) != len(tensors["ids"]):
        return "its ids do not fill their text"
    if not isinstance(reasons, dict) or not all(
        key.isascii() and key.isdigit() and len(key) < 10 and int(key) < count and isinstance(reason, str)
        for key, reason in reasons.items()
    ):
        return "got quarantined images that it does not list"
    return ""
