"""The index behind /search: `dinodeploy.search.Index`, as a service may ask it, and a look at what is found.

The engine that is served must be the one that made the index: numbers of different models are never compared.
Questions go through the preprocessing that the index was made with, whatever the bundle's own is.

Shapes: D embed_dim.
"""

from __future__ import annotations

import io
from pathlib import Path

from dinodeploy.arrays import FloatArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images.open import open_image
from dinodeploy.search import Hit, Index
from dinodeploy.search.query import differences, recorded_preprocess
from dinodeploy.serve.refused import Refused

THUMBNAIL = 320  # pixels of the longer side


class Neighbours:
    """An index, opened for the questions of one engine. It may be asked from several threads; close it.

    output: what of the engine is compared; preprocess: what pictures go through before it.
    """

    def __init__(self, store: Path, embedder: Embedder, max_pixels: int) -> None:
        """Raises MisuseError for an index that another engine made, and as `Index.open`."""
        self._index = Index.open(store)
        fingerprint = self._index.manifest.fingerprint
        self.output = self._index.manifest.output
        self.preprocess = recorded_preprocess(fingerprint)
        now = embedder.manifest.fingerprint(embedder.bundle.engine, self.preprocess)
        if shown := differences(fingerprint, now):
            raise MisuseError(
                f"--index {store} was not made by {embedder.bundle.engine_path} ({shown}); serve the bundle "
                "that made it, or embed and index again with this one"
            )
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self._index)

    @property
    def columns(self) -> dict[str, str]:
        """What a filter may ask for, and its kind."""
        return dict(self._index.manifest.columns)

    def search(self, vector: FloatArray, k: int, filter: str | None, text: str | None) -> list[Hit]:
        """The `k` nearest to `vector` [D] that fit. Raises Refused, 422, for conditions that mean nothing."""
        try:
            return self._index.search(vector, k, filter=filter, text=text)[0]
        except MisuseError as error:
            raise Refused(422, str(error).removeprefix("--")) from error

    def thumbnail(self, id: str) -> bytes:
        """A small JPEG of a picture. Raises Refused, 404, where it is not a file that can be read.

        Only pictures of the index can be asked for, never any other path.
        """
        if id not in self._index:
            raise Refused(404, "the index has no such picture; ids are as /search gives them")
        try:
            picture = open_image(Path(id), max_pixels=self._max_pixels)
        except ImageError as error:
            raise Refused(404, "this picture is no longer where it was embedded from") from error
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def close(self) -> None:
        self._index.close()
