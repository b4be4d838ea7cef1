"""Embed query images with the engine that made the index; embeddings of different engines are never mixed:
a query uses the recorded model, weights, engine file, recipe and preprocessing, or is refused.

Shapes: Q queries, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import Bundle, locate
from dinodeploy.bundle.manifest import as_recorded
from dinodeploy.embedder import Embedder
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files import schema
from dinodeploy.images.inputs import ImageInput, as_source
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pooling import pick

_SHOWN = 14  # characters shown of a hash


def require_same(
    engine: str | Path, fingerprint: dict[str, Any], require_signature: Path | None = None
) -> tuple[Bundle, str]:
    """The bundle and the engine file in it that made embeddings of this `fingerprint`.

    Raises MisuseError; as `open_bundle`.
    """
    bundle, named = locate(engine, require_signature=require_signature)
    steps = recorded_preprocess(fingerprint)
    manifest = bundle.manifest
    files = [named] if named is not None else list(manifest.order)
    for name in files:
        if as_recorded(manifest.fingerprint(name, steps), fingerprint) == fingerprint:
            return bundle, name
    shown = differences(fingerprint, manifest.fingerprint(files[0], steps))
    raise MisuseError(
        f"{engine} did not make these embeddings ({shown}); give the bundle that did as --engine, or embed "
        "again with this one"
    )


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> str:
    """The differences between two fingerprints in words; empty if there are none."""
    keys = dict.fromkeys([*recorded, *now])
    differing = [
        key for key in keys if now.get(key) != recorded.get(key) or (key in now) != (key in recorded)
    ]
    return "; ".join(f"{key}: {_show(recorded.get(key))}, now {_show(now.get(key))}" for key in differing)


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


def embed_query(
    images: Sequence[ImageInput],
    engine: str | Path,
    fingerprint: dict[str, Any],
    output: str,
    *,
    device: str = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
    require_signature: Path | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> FloatArray:
    """Images -> [Q, D], embedded as the index with this `fingerprint`. `log` receives engine and device.

    Raises MisuseError for an engine that did not make the store, ImageError for an image that cannot be
    read, and what `Embedder.open` raises.
    """
    bundle, file = require_same(engine, fingerprint, require_signature)
    steps = recorded_preprocess(fingerprint)
    with Embedder.open_located(bundle, file, device=device) as embedder:
        log(embedder.choice)
        pixels = [steps(open_image(as_source(image), limits=limits)) for image in images]
        return np.concatenate([pick(embedder.run(one[None]), [output])[output] for one in pixels])
