"""One numpy archive per shard, shard_00000.npz, with `ids`, `size`, one array per output and `<output>_grid`.

Unlike `numpy.savez`, it does not store the time of writing, so two runs give the same bytes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import IntArray
from dinodeploy.store.formats import Column, Shard


def require() -> None:
    """numpy is always there."""


def prepare() -> None:
    """Nothing more than numpy."""


def write(root: Path, index: int, shard: Shard) -> list[str]:
    arrays: dict[str, NDArray[Any]] = {"ids": np.array(shard.ids, np.str_), "size": shard.sizes}
    for output, column in shard.columns.items():
        arrays[output] = column.values
        if column.grid is not None:
            arrays[f"{output}_grid"] = column.grid
    (name,) = files(index, "")
    with zipfile.ZipFile(root / name, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy")  # dated 1980, the start of zip's calendar
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return [name]


def files(index: int, output: str) -> list[str]:
    return [f"shard_{index:05d}.npz"]


def read(root: Path, index: int, output: str) -> tuple[list[str], Column]:
    (name,) = files(index, output)
    with np.load(root / name, allow_pickle=False) as archive:
        wanted = ("ids", output, f"{output}_grid")
        arrays = {key: archive[key] for key in wanted if key in archive}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy returns a member that is not an array as bytes
            raise ValueError(f"its member {key!r} is not an array")
    return arrays["ids"].tolist(), Column(arrays[output], arrays.get(f"{output}_grid"))


def sizes(root: Path, index: int) -> IntArray:
    (name,) = files(index, "")
    with np.load(root / name, allow_pickle=False) as archive:
        found: IntArray = archive["size"]
    if not isinstance(found, np.ndarray):
        raise ValueError("its member 'size' is not an array")
    return found
