"""The index behind /search: the nearest pictures of a store to a vector, and a look at them.

Exact, over the store in memory: a matrix product with unit vectors. The store must have been made by the
engine and the preprocessing that now embed the questions; numbers of different models are never compared.

Shapes: N rows of the store, D embed_dim.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images import open_image
from dinodeploy.serve.refused import Refused
from dinodeploy.stored import load_embeddings, open_embeddings

Floats = NDArray[np.float32]
THUMBNAIL = 320  # pixels of the longer side
OUTPUT = "cls"


@dataclass(frozen=True)
class Neighbour:
    """One picture that was found. row: its number in the store."""

    row: int
    id: str
    cosine: float


class Neighbours:
    """A store, opened for searching. Raises MisuseError for one that another model or preprocessing made."""

    def __init__(self, store: Path, fingerprint: dict[str, Any], max_pixels: int) -> None:
        theirs = open_embeddings(store).manifest.fingerprint
        if theirs != fingerprint:
            differ = [name for name in fingerprint if theirs.get(name) != fingerprint[name]]
            raise MisuseError(
                f"--index {store} was embedded with another {', '.join(differ) or 'model'}; "
                "serve the bundle that made it, or embed again"
            )
        self.ids, vectors = load_embeddings(store, OUTPUT)
        self._units = _unit(np.asarray(vectors, np.float32))
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, vector: Floats, k: int) -> list[Neighbour]:
        """The `k` nearest to `vector` [D], best first; equal ones in the order of their ids."""
        cosines = self._units @ _unit(vector[None])[0]
        k = min(k, len(cosines))
        if not k:
            return []
        least = np.partition(cosines, -k)[-k]
        rows = np.flatnonzero(cosines >= least).tolist()
        rows.sort(key=lambda row: (-cosines[row], self.ids[row]))
        return [Neighbour(row, self.ids[row], float(cosines[row])) for row in rows[:k]]

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG of a row's picture. Raises Refused, 404, where it is not a file that can be read.

        Only files that were embedded can be asked for: by the number of their row, never by a path.
        """
        if not 0 <= row < len(self.ids):
            raise Refused(404, f"there is no row {row}; the index has {len(self.ids)}")
        try:
            picture = open_image(Path(self.ids[row]), max_pixels=self._max_pixels)
        except ImageError as error:
            raise Refused(404, "this picture is no longer where it was embedded from") from error
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _unit(vectors: Floats) -> Floats:
    """[N,D] of length one; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths, lengths, 1), np.float32)
