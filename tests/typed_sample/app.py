"""Somebody else's program, which is checked with `mypy --strict` against what we install (`test_typed.py`).

It uses everything that README.md and docs/library.md call public. It is never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import dinodeploy
from dinodeploy import BundleError, DinodeployError, Embedder, ImageError, MisuseError, load_embeddings
from dinodeploy.batcher import Batcher
from dinodeploy.errors import BusyError
from dinodeploy.search import Hit, Index, build_index

Vectors = NDArray[np.float32]


def embed(bundle: str | Path, pictures: list[str | Path | Image.Image | NDArray[np.uint8]]) -> Vectors:
    with Embedder.open(bundle, device="cpu", outputs=("cls",), threads=2) as embedder:
        embedder.warm_up(224, (224, 384), batch_size=2)
        names: tuple[str, ...] = embedder.output_names
        shown: str = embedder.choice
        print(dinodeploy.__version__, names, shown)
        vectors: Vectors = embedder.embed(pictures, imgsz=(224, 384), batch_size=4)["cls"]
        return vectors


def run(embedder: Embedder, pixels: Vectors) -> Vectors:
    outputs = embedder.run(pixels)
    patches = outputs["patch"]
    return patches[:, 0, 0]


class Service:
    """A class of theirs around a batcher."""

    def __init__(self, embedder: Embedder) -> None:
        self.seen: list[tuple[int, float]] = []
        self.batcher = Batcher(embedder, max_batch=4, max_wait=0.01, queue_size=16, observe=self.note)

    def note(self, pictures: int, seconds: float) -> None:
        self.seen.append((pictures, seconds))

    def ask(self, data: bytes) -> Vectors | None:
        try:
            future: Future[dict[str, Vectors]] = self.batcher.submit(data, imgsz=224)
        except BusyError:
            return None
        except ImageError as error:
            print(error.exit_code, error)
            return None
        return future.result(timeout=1.0)["cls"]

    def close(self) -> int:
        pending: int = self.batcher.pending
        self.batcher.close(drain=False)
        return pending


def similar(store: Path, vectors: Vectors) -> Iterator[str]:
    try:
        ids, stored = load_embeddings(store)
    except (BundleError, MisuseError) as error:
        print(error)
        return
    print(len(ids), type(stored))
    build_index(store, output="cls", overwrite=True)
    with Index.open(store) as index:
        hits: list[list[Hit]] = index.search(vectors, k=3, filter="width > 640")
        for hit in hits[0]:
            yield f"{hit.rank} {hit.id} {hit.cosine:.3f} {hit.width}x{hit.height}"


def exit_code(error: DinodeployError) -> int:
    return error.exit_code
