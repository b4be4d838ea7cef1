"""`Index`: a store's index, opened for searching.

    with Index.open("embeddings") as index:
        for hit in index.search(vector, k=10, filter="width > 640")[0]:
            print(hit.rank, hit.id, hit.cosine)

Cosines are computed anew in float64 for whatever Lance finds, and equal ones are ordered by id: the same
question has the same answer, bit for bit.

Shapes: Q queries, D dimension, n rows found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.errors import BundleError, MisuseError, reason_of
from dinodeploy.search import approximate
from dinodeploy.search.filters import contains_sql, filter_sql, text_literal
from dinodeploy.search.index_manifest import TABLE, IndexManifest, index_path, read_index_manifest
from dinodeploy.search.metadata import stored_ids
from dinodeploy.search.nearest import cosines, unit
from dinodeploy.search.table import nearest_rows, open_table, require_lance, to_numpy, vector_blocks

if TYPE_CHECKING:
    from pyarrow import Table


_MORE = 16  # rows asked for beyond k, so that equal ones at the end can be told apart
_SAME = (
    1e-6  # Lance's float32 distances are this exact; rows as near as that to the k-th may belong before it
)
_MOST_EQUAL = 65_536  # rows that are fetched to put equal ones in order; beyond, any of them is as good


@dataclass(frozen=True)
class Hit:
    """One picture that was found. width, height: of the original; metadata: None where it has none."""

    rank: int  # from 1
    id: str
    cosine: float
    width: int
    height: int
    metadata: dict[str, Any] = field(default_factory=dict)


class Index:
    """An opened index. Use `Index.open`; close it, or use it in a `with`."""

    def __init__(self, store: Path, manifest: IndexManifest, table: Any) -> None:
        self.store = store
        self.manifest = manifest
        self._table: Any = table

    @classmethod
    def open(cls, store: str | Path) -> Index:
        """The index of the store at `store`.

        Raises BundleError for no store and no index, TamperedError where either has changed since,
        UnavailableError without Lance.
        """
        require_lance()
        root = Path(store)
        manifest = read_index_manifest(root)
        table = open_table(index_path(root) / f"{TABLE}.lance")
        if table.count_rows() != manifest.rows:
            raise BundleError(
                f"{index_path(root)}: got {table.count_rows()} rows, wanted {manifest.rows}; index again: "
                f"dinodeploy index {store} --overwrite"
            )
        return cls(root, manifest, table)

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
        """The `k` nearest pictures to each of `vectors` [Q, D] or [D], best first; fewer if there are fewer.

        `filter` is a condition on id, width, height and the metadata (`filters.py`); `text` a word that id or
        any text column must contain. `exact` goes through all rows whatever the index. Pictures `without`
        are passed over. Raises MisuseError for k < 1, vectors of another size or without a direction, and a
        filter that makes no sense.
        """
        if k < 1:
            raise MisuseError(f"-k is {k}; wanted at least 1")
        queries = self._queries(vectors)
        condition = self._condition(filter, text)
        count = self._count(condition)
        search = self._how(exact, condition, count)
        return [self._one(query, k, condition, count, search, set(without)) for query in queries]

    def vector(self, id: str) -> FloatArray:
        """The unit vector [D] of a picture. Raises MisuseError for one that is not in the index."""
        (name,) = stored_ids([id])
        found = self._read(columns=["vector"], filter=f"`id` = {text_literal(name)}", limit=1)
        if not len(found):
            why = f"{self.manifest.left_out} pictures have no direction" if self.manifest.left_out else ""
            raise MisuseError(
                f"{id!r} is not in the index of {self.store}; ids are as `embed` was given them"
                + (f" ({why})" if why else "")
            )
        return to_numpy(found["vector"])[0]

    def __contains__(self, id: str) -> bool:
        (name,) = stored_ids([id])
        return bool(self._count(f"`id` = {text_literal(name)}"))

    def ids(self) -> list[str]:
        """All ids, in the order of `vectors`."""
        names: list[str] = self._read(columns=["id"], scan_in_order=True)["id"].to_pylist()
        return names

    def vectors(self) -> Iterator[FloatArray]:
        """All unit vectors in the order of the store, a block [n, D] in memory at a time."""
        return vector_blocks(self._open())

    def take(self, rows: IndexArray) -> FloatArray:
        """Unit vectors [n, D] of rows by their number in that order, repeated where a row is."""
        numbers, places = np.unique(rows, return_inverse=True)
        found = self._open().take(numbers.tolist(), columns=["vector"])
        return to_numpy(found["vector"])[places]

    def close(self) -> None:
        self._table = None

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _queries(self, vectors: FloatArray) -> FloatArray:
        array = np.atleast_2d(np.asarray(vectors, np.float32))
        if array.ndim != 2 or array.shape[1] != self.manifest.dim:
            raise MisuseError(f"vectors are {list(array.shape)}; wanted [Q, {self.manifest.dim}]")
        queries, good = unit(array)
        if not good.all():
            raise MisuseError(f"vector {int(np.argmin(good))} is zero or not finite: it has no direction")
        return queries

    def _condition(self, filter: str | None, text: str | None) -> str | None:
        columns = self.manifest.columns
        parts = []
        if filter is not None:
            parts.append(filter_sql(filter, columns))
        if text is not None:
            parts.append(contains_sql(text, [name for name, kind in columns.items() if kind == "text"]))
        return " AND ".join(f"({part})" for part in parts) or None

    def _count(self, condition: str | None) -> int:
        if condition is None:
            return self.manifest.rows
        try:
            return int(self._open().count_rows(condition))
        except (OSError, ValueError) as error:
            raise MisuseError(f"this filter cannot be used: {reason_of(error)}") from error

    def _how(self, exact: bool, condition: str | None, count: int) -> dict[str, int] | None:
        """How to search: None, exactly. What a filter leaves is gone through if it is little."""
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
        """The hits of one query; asked again for more while equal rows may lie beyond the last one found."""
        if not count:
            return []
        columns = [*self.manifest.columns, "vector"]
        wanted = k + len(without)
        asked = min(count, wanted + _MORE)
        while True:
            rows = self._nearest(query, asked, columns, condition, search)
            if search is not None and len(rows) < asked:  # the partitions looked into hold no more
                search = None
                continue
            similar = cosines(to_numpy(rows["vector"]), query)
            settled = len(rows) < asked or asked == count or _is_settled(similar, wanted)
            if settled or asked >= _MOST_EQUAL:
                return _hits(rows, similar, k, without)
            asked = min(count, 4 * asked)

    def _nearest(
        self,
        query: FloatArray,
        asked: int,
        columns: list[str],
        condition: str | None,
        search: dict[str, int] | None,
    ) -> Table:
        try:
            return nearest_rows(self._open(), query, asked, columns, filter=condition, search=search)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"the index of {self.store} cannot be searched: {reason_of(error)}; index again: "
                f"dinodeploy index {self.store} --overwrite"
            ) from error

    def _read(self, **options: Any) -> Table:
        try:
            return self._open().to_table(**options)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"the index of {self.store} cannot be read: {reason_of(error)}; index again: "
                f"dinodeploy index {self.store} --overwrite"
            ) from error

    def _open(self) -> Any:
        if self._table is None:
            raise MisuseError("this index is closed; open it again: Index.open")
        return self._table


def _is_settled(similar: NDArray[np.float64], wanted: int) -> bool:
    """Whether the last row found is certainly behind the first `wanted`."""
    ordered = np.sort(similar)[::-1]
    return bool(ordered[-1] < ordered[wanted - 1] - _SAME)


def _hits(rows: Table, similar: NDArray[np.float64], k: int, without: set[str]) -> list[Hit]:
    """The first `k` of the rows found, equal cosines by id."""
    records = rows.drop_columns(["vector", "_distance"]).to_pylist()
    found = sorted(zip(similar.tolist(), records, strict=True), key=lambda pair: (-pair[0], pair[1]["id"]))
    kept = [(cosine, record) for cosine, record in found if record["id"] not in without][:k]
    return [
        Hit(
            rank=rank,
            id=record.pop("id"),
            cosine=cosine,
            width=record.pop("width"),
            height=record.pop("height"),
            metadata=record,
        )
        for rank, (cosine, record) in enumerate(kept, 1)
    ]
