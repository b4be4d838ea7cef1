"""Plain numpy arrays with metadata: `npy` (the default), and `clip-retrieval`, which has the same files.

    img_emb/img_emb_00000.npy          the cls output; others are in <output>_emb/
    patch_grid/patch_grid_00000.npy    if the grids of a shard differ: (h, w) of each row
    metadata/metadata_00000.jsonl      image_path, width, height of each row
    metadata/metadata_00000.parquet    the same for clip-retrieval's tools, if pyarrow is installed

`clip-retrieval` is for that program's readers, which take products of vectors for cosines: its vectors have
length 1 (float16 with `--dtype fp16`, as clip-retrieval writes; never int8), and pyarrow is required.
https://github.com/rom1504/clip-retrieval, clip_inference/mapper.py and writer.py

clip-retrieval pads the shard number to the digits of the number of shards; here it is always five digits. Its
tools sort the names and read both. Loading needs only the jsonl, never pyarrow.
"""

from __future__ import annotations

import importlib.util
from json.encoder import encode_basestring_ascii as encode_string
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import IntArray
from dinodeploy.errors import BundleError, UnavailableError
from dinodeploy.files.json_file import parse_json
from dinodeploy.store.formats import Column, Format, Shard

_LINES = 10_000  # of metadata that are parsed together


class Npy(Format):
    def __init__(self) -> None:
        self._parsed: tuple[Path, list[dict[str, Any]]] | None = None  # the metadata read last

    def prepare(self) -> None:
        if importlib.util.find_spec("pyarrow"):
            import pyarrow.parquet  # noqa: F401

    def write(self, root: Path, index: int, shard: Shard) -> list[str]:
        names = []
        for output, column in shard.columns.items():
            names.append(_emb(index, output))
            _save(root / names[-1], column.values)
            if column.grid is not None:
                names.append(_grid(index, output))
                _save(root / names[-1], column.grid)
        names.append(_metadata(index))
        (root / names[-1]).parent.mkdir(exist_ok=True)
        lines = "".join(  # a third of the time of a dictionary per row
            f'{{"image_path": {encode_string(name)}, "width": {width}, "height": {height}}}\n'
            for name, (width, height) in zip(shard.ids, shard.sizes.tolist(), strict=True)
        )
        (root / names[-1]).write_text(lines, "utf-8", newline="\n")
        if importlib.util.find_spec("pyarrow"):
            from dinodeploy.store.formats.arrow import write_metadata

            names.append(f"metadata/metadata_{index:05d}.parquet")
            write_metadata(root / names[-1], shard)
        return names

    def files(self, index: int, output: str) -> list[str]:
        return [_metadata(index), _emb(index, output), _grid(index, output)]

    def read(self, root: Path, index: int, output: str) -> tuple[list[str], Column]:
        ids = [record["image_path"] for record in self._records(root, index)]
        grid = root / _grid(index, output)
        values = np.load(root / _emb(index, output), allow_pickle=False)
        return ids, Column(values, np.load(grid, allow_pickle=False) if grid.is_file() else None)

    def sizes(self, root: Path, index: int) -> IntArray:
        pairs = [(record["width"], record["height"]) for record in self._records(root, index)]
        return np.array(pairs, np.int32).reshape(-1, 2)

    def _records(self, root: Path, index: int) -> list[dict[str, Any]]:
        path = root / _metadata(index)
        if self._parsed is None or self._parsed[0] != path:
            self._parsed = path, _records(path)
        return self._parsed[1]


class ClipRetrieval(Npy):
    unit_length = True
    dtypes = ("float32", "float16")

    def require(self) -> None:
        if not importlib.util.find_spec("pyarrow"):
            raise UnavailableError(
                "clip-retrieval's metadata needs pyarrow, which is missing; pip install 'dinodeploy[parquet]'"
            )


def _records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines()
    records: list[dict[str, Any]] = []
    for begin in range(0, len(lines), _LINES):
        some = lines[begin : begin + _LINES]
        try:  # as one array: eight times as fast as line by line
            found = parse_json(b"[" + b",".join(some) + b"]", str(path), "ids")
        except BundleError:
            found = []
        if len(found) != len(some):
            found = [
                parse_json(line, f"{path}: line {begin + at}", "line") for at, line in enumerate(some, 1)
            ]
        records += found
    return records


def _emb(index: int, output: str) -> str:
    folder = "img_emb" if output == "cls" else f"{output}_emb"
    return f"{folder}/{folder}_{index:05d}.npy"


def _grid(index: int, output: str) -> str:
    return f"{output}_grid/{output}_grid_{index:05d}.npy"


def _metadata(index: int) -> str:
    return f"metadata/metadata_{index:05d}.jsonl"


def _save(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:  # as np.save, but a full disk raises a clear error
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
