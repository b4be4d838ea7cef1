"""`Index`: the opened index of a store.

    with Index.open("embeddings") as index:
        for hit in index.search(vector, k=10, filter="width > 640")[0]:
            print(hit.rank, hit.id, hit.cosine)

Cosines of the rows that Lance finds are computed again in float64, and equal ones are ordered by id: the same
query has the same answer, bit for bit.

Shapes: Q queries, D dimension, n rows found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.search import approximate
from dinodeploy.search.filters import contains_sql, filter_sql, text_literal
from dinodeploy.search.index_manifest import TABLE, IndexManifest, index_path, read_index_manifest
from dinodeploy.search.nearest import cosines
from dinodeploy.search.table import (
    nearest_rows,
    open_table,
    reading,
    require_lance,
    table_schema,
    to_numpy,
    vector_blocks,
)
from dinodeploy.store.dtypes import unit_length

if TYPE_CHECKING:
    from pyarrow import Table


_MORE = 16  # rows requested beyond k, to order equal ones at the end
_SAME = 1e-6  # error of Lance's float32 distances; rows this close to the k-th may belong before it
_MOST_EQUAL = 65_536  # most rows fetched to order equal ones; beyond, their order is arbitrary


@dataclass(frozen=True)
class Hit:
    """One image that was found. width, height: of the original. metadata: None for missing values."""

    rank: int  # from 1
    id: str
    cosine: float
    width: int
    height: int
    metadata: dict[str, Any] = field(default_factory=dict)


class Index:
    """An opened index. Use `Index.open`; close it, or use it in a `with` statement."""

    def __init__(self, store: Path, manifest: IndexManifest, table: Any) -> None:
        self.store = store
        self.manifest = manifest
        self._table: Any = table

    @classmethod
    def open(cls, store: str | Path, *, verify: bool = False) -> Index:
        """Open the index of the store at `store`. verify: compare the hashes of all its files.

        Raises BundleError if there is no store or no index, TamperedError if either has changed,
        UnavailableError without Lance.
        """
        require_lance()
        root = Path(store)
        manifest = read_index_manifest(root, verify=verify)
        table = open_table(index_path(root) / f"{TABLE}.lance", manifest.table_version)
        index = cls(root, manifest, table)
        with index._reading("read"):
            found, rows = {field.name: field.type for field in table.schema}, table.count_rows()
        wanted = {field.name: field.type for field in table_schema(manifest.columns, manifest.dim)}
        if found != wanted or rows != manifest.rows:
            raise BundleError(
                f"{index_path(root)}: got {rows} rows of {', '.join(found)}, wanted {manifest.rows} of "
                f"{', '.join(wanted)}; index again: dinodeploy index {store} --overwrite"
            )
        return index

    def __len__(self) -> int:
        return self.manifest.rows

    def search(
        self,
        vectors: FloatArray,
        k: int = 10,
        *,
        filter: str | None = None,
        text: str | None = None,
        exact: bool = False,
        without: Sequence[str] = (),
    ) -> list[list[Hit]]:
        """The `k` images nearest to each of `vectors` [Q, D] or [D], best first; fewer if there are fewer.

        filter: a condition on id, width, height and metadata (`filters.py`). text: a word that the id or any
        text column must contain. exact: compare all rows even if the index is approximate. without: ids to
        leave out. Raises MisuseError for k < 1, vectors of another size, zero vectors, and an invalid filter.
        """
        if k < 1:
            raise MisuseError(f"-k is {k}; wanted at least 1")
        queries = self._queries(vectors)
        condition = self._condition(filter, text)
        count = self._count(condition)
        search = self._how(exact, condition, count)
        return [self._one(query, k, condition, count, search, set(without)) for query in queries]

    def vector(self, id: str) -> FloatArray:
        """The unit vector [D] of an image. Raises MisuseError for an id that is not in the index."""
        found = self._read(columns=["vector"], filter=_is_id(id), limit=1)
        if not len(found):
            zero = self.manifest.left_out
            why = f" ({zero} images with a zero vector were left out)" if zero else ""
            raise MisuseError(
                f"{id!r} is not in the index of {self.store}; wanted an id as `embed` wrote it{why}"
            )
        return to_numpy(found["vector"])[0]

    def __contains__(self, id: str) -> bool:
        return bool(self._count(_is_id(id)))

    def ids(self) -> list[str]:
        """All ids, in the order of `vectors`."""
        names: list[str] = self._read(columns=["id"], scan_in_order=True)["id"].to_pylist()
        return names

    def vectors(self) -> Iterator[FloatArray]:
        """All unit vectors in the order of the store, one block [n, D] at a time."""
        with self._reading("read"):
            yield from vector_blocks(self._open())

    def take(self, rows: IndexArray) -> FloatArray:
        """Unit vectors [n, D] by row number in that order; repeated rows are repeated."""
        numbers, places = np.unique(rows, return_inverse=True)
        with self._reading("read"):
            found = self._open().take(numbers.tolist(), columns=["vector"])
        return to_numpy(found["vector"])[places]

    def close(self) -> None:
        self._table = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _queries(self, vectors: FloatArray) -> FloatArray:
        array = np.atleast_2d(np.asarray(vectors, np.float32))
        if array.ndim != 2 or array.shape[1] != self.manifest.dim:
            raise MisuseError(f"vectors are {list(array.shape)}; wanted [Q, {self.manifest.dim}]")
        queries, good = unit_length(array)
        if not good.all():
            raise MisuseError(
                f"vector {int(np.argmin(good))} is zero or not finite; wanted a vector with a direction"
            )
        return queries

    def _condition(self, filter: str | None, text: str | None) -> str | None:
        columns = self.manifest.columns
        parts = [] if filter is None else [filter_sql(filter, columns)]
        if text is not None:
            parts.append(contains_sql(text, [name for name, kind in columns.items() if kind == "text"]))
        return " AND ".join(f"({part})" for part in parts) or None

    def _count(self, condition: str | None) -> int:
        if condition is None:
            return self.manifest.rows
        with reading(lambda reason: MisuseError(f"this filter cannot be used: {reason}")):
            return int(self._open().count_rows(condition))

    def _how(self, exact: bool, condition: str | None, count: int) -> dict[str, int] | None:
        """IVF-PQ search options; None: exact search, also if a filter leaves few rows."""
        how = self.manifest.approximate
        if how is None or exact or (condition is not None and count < approximate.EXACT_BELOW):
            return None
        return {"nprobes": how.nprobes, "refine_factor": how.refine}

    def _one(
        self,
        query: FloatArray,
        k: int,
        condition: str | None,
        count: int,
        search: dict[str, int] | None,
        without: set[str],
    ) -> list[Hit]:
        """The hits of one query. Fetches more rows while rows equal to the k-th may be missing."""
        if not count:
            return []
        columns = [*self.manifest.columns, "vector"]
        wanted = k + len(without)
        asked = min(count, wanted + _MORE)
        while True:
            with self._reading("searched"):
                rows = nearest_rows(self._open(), query, asked, columns, filter=condition, search=search)
            if search is not None and len(rows) < asked:  # the probed partitions hold no more rows
                search = None
                continue
            similar = cosines(to_numpy(rows["vector"]), query)
            settled = len(rows) < asked or asked == count or _is_settled(similar, wanted)
            if settled or asked >= _MOST_EQUAL:
                return _hits(rows, similar, k, without)
            asked = min(count, 4 * asked)

    def _read(self, **options: Any) -> Table:
        with self._reading("read"):
            return self._open().to_table(**options)

    def _reading(self, done: str) -> AbstractContextManager[None]:
        """Raise Lance's errors as BundleError."""
        return reading(
            lambda reason: BundleError(
                f"the index of {self.store} cannot be {done}: {reason}; index again: "
                f"dinodeploy index {self.store} --overwrite"
            )
        )

    def _open(self) -> Any:
        if self._table is None:
            raise MisuseError("this index is closed; open it again: Index.open")
        return self._table


def _is_id(id: str) -> str:
    return f"`id` = {text_literal(id)}"


def _is_settled(similar: NDArray[np.float64], wanted: int) -> bool:
    """Whether the last row found certainly comes after the first `wanted`."""
    ordered = np.sort(similar)[::-1]
    return bool(ordered[-1] < ordered[wanted - 1] - _SAME)


def _hits(rows: Table, similar: NDArray[np.float64], k: int, without: set[str]) -> list[Hit]:
    """The first `k` of the rows found, ordered by cosine, then id."""
    records = rows.drop_columns(["vector", "_distance"]).to_pylist()
    found = sorted(zip(similar.tolist(), records, strict=True), key=lambda pair: (-pair[0], pair[1]["id"]))
    kept = [(cosine, record) for cosine, record in found if record["id"] not in without][:k]
    return [
        Hit(rank, record.pop("id"), cosine, record.pop("width"), record.pop("height"), record)
        for rank, (cosine, record) in enumerate(kept, 1)
    ]
