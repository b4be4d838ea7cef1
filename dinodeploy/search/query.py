"""Embed query images with the engine that made the index; embeddings of different engines are never mixed.

An index records the model, weights, engine file, recipe and preprocessing of its vectors. A query uses
exactly these, or is refused.

Shapes: Q queries, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import locate
from dinodeploy.embedder import Embedder
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files import schema
from dinodeploy.images.inputs import ImageInput, as_source
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pooling import pick

_SHOWN = 14  # characters shown of a hash


def require_same(engine: str | Path, fingerprint: dict[str, Any]) -> Path:
    """The engine file of the bundle that made embeddings with this `fingerprint`.

    Raises MisuseError with the differences if no engine fits, and what `open_bundle` raises.
    """
    bundle, named = locate(engine)
    steps = recorded_preprocess(fingerprint)
    manifest = bundle.manifest
    files = [named] if named is not None else list(manifest.engines)
    for name in files:
        if manifest.fingerprint(name, steps) == fingerprint:
            return bundle.root / name
    shown = differences(fingerprint, manifest.fingerprint(files[0], steps))
    raise MisuseError(
        f"{engine} did not make these embeddings ({shown}); give the bundle that did as --engine, or embed "
        "again with this one"
    )


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> str:
    """The differences between two fingerprints in words; empty if there are none."""
    differing = [key for key in recorded if now.get(key) != recorded[key]]
    return "; ".join(f"{key}: {_show(recorded[key])}, now {_show(now.get(key))}" for key in differing)


def _show(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def recorded_preprocess(fingerprint: dict[str, Any]) -> Preprocess:
    """The preprocessing of a store. Raises BundleError if its fingerprint has none."""
    if "preprocess" not in fingerprint:
        raise BundleError(
            "these embeddings have no record of their preprocessing; wanted a store written by `embed`"
        )
    return schema.parse(Preprocess, fingerprint["preprocess"], "the store's fingerprint, preprocess")


class QueryEmbedder:
    """The opened engine of an index: images in, vectors out. Use it in a `with` statement."""

    def __init__(
        self, engine: str | Path, fingerprint: dict[str, Any], output: str, *, device: str = "auto"
    ) -> None:
        """Raises MisuseError for an engine that did not make the store, and what `Embedder.open` raises."""
        path = require_same(engine, fingerprint)
        self._steps = recorded_preprocess(fingerprint)
        self._output = output
        self._embedder = Embedder.open(path, device=device)

    @property
    def choice(self) -> str:
        """Which engine runs on which device."""
        return self._embedder.choice

    def embed(self, images: Sequence[ImageInput]) -> FloatArray:
        """Images -> [Q, D]. Raises ImageError for an image that cannot be read."""
        pixels = [self._steps(open_image(as_source(image))) for image in images]
        rows = [pick(self._embedder.run(one[None]), [self._output])[self._output] for one in pixels]
        return np.concatenate(rows)

    def __enter__(self) -> QueryEmbedder:
        return self

    def __exit__(self, *raised: object) -> None:
        self._embedder.close()
