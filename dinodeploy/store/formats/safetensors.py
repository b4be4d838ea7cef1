"""One safetensors file per shard, shard_00000.safetensors, with `size`, one tensor per output,
`<output>_grid`.

The ids are a JSON list under `ids` in the file's metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dinodeploy.arrays import IntArray
from dinodeploy.files.schema import decode
from dinodeploy.files.tensors import load_tensors, read_metadata, save_tensors
from dinodeploy.store.formats import Column, Shard


def require() -> None:
    """The safetensors package is always installed."""


def prepare() -> None:
    """Nothing more than numpy."""


def write(root: Path, index: int, shard: Shard) -> list[str]:
    tensors: dict[str, NDArray[Any]] = {"size": shard.sizes}
    for output, column in shard.columns.items():
        tensors[output] = column.values
        if column.grid is not None:
            tensors[f"{output}_grid"] = column.grid
    (name,) = files(index, "")
    save_tensors(root / name, tensors, {"ids": json.dumps(shard.ids)})
    return [name]


def files(index: int, output: str) -> list[str]:
    return [f"shard_{index:05d}.safetensors"]


def read(root: Path, index: int, output: str) -> tuple[list[str], Column]:
    (name,) = files(index, output)
    tensors = load_tensors(root / name)
    ids = decode(read_metadata(root / name)["ids"], f"{root / name}: ids")
    return ids, Column(tensors[output], tensors.get(f"{output}_grid"))


def sizes(root: Path, index: int) -> IntArray:
    (name,) = files(index, "")
    return load_tensors(root / name)["size"]
