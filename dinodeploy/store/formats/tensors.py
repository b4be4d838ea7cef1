"""One file of named arrays per shard: shard_00000.npz or shard_00000.safetensors.

    size             [n, 2] int32, width and height of the original images
    <output>         one array per output
    <output>_grid    [n, 2] int32, the patch grids if they differ
    ids              in npz an array, in safetensors a JSON list in the file's metadata

Unlike `numpy.savez`, npz files do not store the time of writing, so two runs give the same bytes.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from dinodeploy.arrays import AnyArray, IntArray
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.tensors import load_tensors, read_metadata, save_tensors
from dinodeploy.store.formats import Column, Format, Shard


class Npz(Format):
    suffix = "npz"

    def write(self, root: Path, index: int, shard: Shard) -> list[str]:
        arrays = {"ids": np.array(shard.ids, np.str_), **_arrays(shard)}
        with zipfile.ZipFile(root / self.file(index), "w") as archive:
            for key, array in arrays.items():
                entry = zipfile.ZipInfo(f"{key}.npy")  # dated 1980, the start of zip's calendar
                with archive.open(entry, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        return [self.file(index)]

    def read(self, root: Path, index: int, output: str) -> tuple[list[str], Column]:
        arrays = _load(root / self.file(index), "ids", output, f"{output}_grid")
        return arrays["ids"].tolist(), Column(arrays[output], arrays.get(f"{output}_grid"))

    def sizes(self, root: Path, index: int) -> IntArray:
        return _load(root / self.file(index), "size")["size"]


class Safetensors(Format):
    suffix = "safetensors"

    def write(self, root: Path, index: int, shard: Shard) -> list[str]:
        save_tensors(root / self.file(index), _arrays(shard), {"ids": json.dumps(shard.ids)})
        return [self.file(index)]

    def read(self, root: Path, index: int, output: str) -> tuple[list[str], Column]:
        path = root / self.file(index)
        tensors = load_tensors(path)
        ids = parse_json(read_metadata(path)["ids"], f"{path}: ids", "ids")
        return ids, Column(tensors[output], tensors.get(f"{output}_grid"))

    def sizes(self, root: Path, index: int) -> IntArray:
        return load_tensors(root / self.file(index))["size"]


def _arrays(shard: Shard) -> dict[str, AnyArray]:
    arrays: dict[str, AnyArray] = {"size": shard.sizes}
    for output, column in shard.columns.items():
        arrays[output] = column.values
        if column.grid is not None:
            arrays[f"{output}_grid"] = column.grid
    return arrays


def _load(path: Path, *names: str) -> dict[str, AnyArray]:
    """The named members of an npz file that exist."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in names if name in archive}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy returns a member that is not an array as bytes
            raise ValueError(f"its member {name!r} is not an array")
    return arrays
