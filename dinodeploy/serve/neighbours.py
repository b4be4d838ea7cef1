"""The index behind /search: nearest images of `dinodeploy.search.Index`, and where they are.

The served engine must be the one that made the index: embeddings of different models are never compared.
Query images are preprocessed as the indexed images were, even if the bundle's default differs.

Shapes: D embed_dim.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.arrays import FloatArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.search import Hit, Index
from dinodeploy.search.query import differences, recorded_preprocess
from dinodeploy.serve.refused import Refused


class Neighbours:
    """An opened index for queries of one engine. Thread-safe; close it after use.

    output: the engine output to compare. preprocess: the preprocessing of query images.
    """

    def __init__(self, store: Path, embedder: Embedder) -> None:
        """Raises MisuseError for an index of another engine, and everything `Index.open` raises."""
        self._index = Index.open(store)
        fingerprint = self._index.manifest.fingerprint
        self.output = self._index.manifest.output
        self.preprocess = recorded_preprocess(fingerprint)
        now = embedder.engine.fingerprint(self.preprocess)
        if shown := differences(fingerprint, now):
            raise MisuseError(
                f"--index {store} was not made by {embedder.engine.path} ({shown}); serve the bundle "
                "that made it, or embed and index again with this one"
            )

    def __len__(self) -> int:
        return len(self._index)

    @property
    def columns(self) -> dict[str, str]:
        """Columns that a filter may use, and their kinds."""
        return dict(self._index.manifest.columns)

    def search(self, vector: FloatArray, k: int, filter: str | None, text: str | None) -> list[Hit]:
        """The `k` images nearest to `vector` [D] that match. Raises Refused, 422: invalid condition."""
        try:
            return self._index.search(vector, k, filter=filter, text=text)[0]
        except MisuseError as error:
            raise Refused(422, str(error).removeprefix("--")) from error

    def path_of(self, id: str) -> Path:
        """Where an indexed image is, never another file. Raises Refused, 404."""
        if id not in self._index:
            raise Refused(404, "the index has no such image; use an id from /search")
        return Path(id)

    def close(self) -> None:
        self._index.close()
