"""`DinodeployEmbeddings`: LanceDB tables that embed their own images, and search by image or by words.

    import dinodeploy.integrations.lancedb  # registers "dinodeploy": LanceDB reads no entry points
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    embed = get_registry().get("dinodeploy").create(bundle="bundle")

    class Photo(LanceModel):
        uri: str = embed.SourceField()
        vector: Vector(embed.ndims()) = embed.VectorField()

Source: https://lancedb.github.io/lancedb/embeddings/custom_embedding_function/
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
from lancedb.embeddings import EmbeddingFunction, register
from PIL import Image
from pydantic import PrivateAttr

from dinodeploy.arrays import AnyArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.images.inputs import is_one_image
from dinodeploy.integrations.opened import opened
from dinodeploy.search.query import IMAGE_EMBEDDING, require_same

NAME = "dinodeploy"


@register(NAME)
class DinodeployEmbeddings(EmbeddingFunction):
    """An embedding function of LanceDB. Create it with `get_registry().get("dinodeploy").create(bundle=…)`.

    bundle: path of a bundle. The table's metadata keeps it as given: let it be absolute, or a variable of
        LanceDB's registry, "$var:bundle".
    output: cls, mean_patch or pooled; default: cls, and image_embedding of a dino.txt bundle.
    normalize: vectors of length 1, so that LanceDB's metrics l2, cosine and dot sort alike.
    imgsz, device, threads, batch_size: as in `Embedder.open` and `Embedder.encode`.
    fingerprint: of the engine that made the vectors of a table. LanceDB keeps it in the table's metadata and
        gives it back: a bundle that is not the same is refused.

    A source column holds image bytes, or paths and URLs; in Python also Pillow images. A null stays null. A
    query is an image: bytes, a Pillow image, a `Path`, or a path or URL as a string; with a dino.txt bundle a
    string is a text. Images that cannot be read raise ImageError.
    """

    bundle: str
    output: str | None = None
    normalize: bool = True
    imgsz: int | tuple[int, int] | None = None
    device: str = "auto"
    threads: int | None = None
    batch_size: int = 8
    fingerprint: dict[str, Any] | None = None

    _file: str | None = PrivateAttr(default=None)  # the engine that made the table's vectors

    def ndims(self) -> int:
        """The length of a vector."""
        return int(self._encode([]).shape[1])

    def compute_source_embeddings(self, images: Any, *args: Any, **kwargs: Any) -> list[AnyArray | None]:
        """Images -> one vector each; a null has none."""
        given = [_as_image(image) for image in _listed(images)]
        vectors = iter(self._encode([image for image in given if image is not None]))
        return [None if image is None else next(vectors) for image in given]

    def compute_query_embeddings(self, query: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """One query -> [vector]."""
        if isinstance(query, str) and self._embedder().manifest.text is not None:
            if (output := self._output()) != IMAGE_EMBEDDING:
                raise MisuseError(
                    f"a text is compared with the output {IMAGE_EMBEDDING}, this table has {output}; search "
                    "by image, or make a table with that output"
                )
            return [self._embedder().encode_text(query, normalize=self.normalize)]
        return list(self._encode([_as_image(query)]))

    # LanceDB tries again after any error, after seconds of waiting; an unreadable image stays unreadable

    def compute_source_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> list[AnyArray | None]:
        return self.compute_source_embeddings(*args, **kwargs)

    def compute_query_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> list[Any]:
        return self.compute_query_embeddings(*args, **kwargs)

    def safe_model_dump(self) -> dict[str, Any]:
        """What LanceDB stores in the table: the arguments as given, and which engine made the vectors."""
        embedder = self._embedder()
        made_by = embedder.engine.fingerprint(embedder.preprocess_for(self.imgsz))
        return {**super().safe_model_dump(), "fingerprint": self.fingerprint or made_by}

    def _embedder(self) -> Embedder:
        if self._file is None and self.fingerprint is not None:
            bundle, file = require_same(self.bundle, self.fingerprint)
            self._file = bundle.address(file)
        return opened(self._file or self.bundle, device=self.device, threads=self.threads)

    def _output(self) -> str:
        text = self._embedder().manifest.text
        return self.output or ("cls" if text is None else IMAGE_EMBEDDING)

    def _encode(self, images: list[Any]) -> AnyArray:
        output = self._output()
        options: dict[str, Any] = {"imgsz": self.imgsz, "batch_size": self.batch_size}
        vectors = self._embedder().encode(images, output=output, normalize=self.normalize, **options)
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2:
            raise MisuseError(
                f"output {output!r} is no vector; wanted cls, mean_patch, pooled or {IMAGE_EMBEDDING}"
            )
        return vectors


def _listed(images: Any) -> Iterable[Any]:
    """The images of an Arrow array, a list, or one image."""
    if hasattr(images, "to_pylist"):
        return list(images.to_pylist())
    return [images] if is_one_image(images) else images


def _as_image(image: Any) -> Any:
    """`image` as `Embedder.encode` takes it: a file: URL is a path."""
    if isinstance(image, str) and image.startswith("file:"):
        return Path(unquote(urlparse(image).path))
    if image is None or isinstance(image, (str, bytes, os.PathLike, Image.Image, np.ndarray)):
        return image
    raise MisuseError(f"got an image of type {type(image).__name__}; wanted bytes, a path, a URL or an image")
