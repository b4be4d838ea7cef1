"""Embed query images and texts with the bundle that made the index; models are never mixed: a query uses the
recorded model, weights, engine file, text graph, recipe and preprocessing, or is refused.

Shapes: Q queries, I images, T texts, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
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
from dinodeploy.store.dtypes import unit_length
from dinodeploy.text.encoder import TextEncoder

IMAGE_EMBEDDING = "image_embedding"  # of dino.txt: comparable with texts
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
    given = engine if bundle.hub is None else bundle.named
    raise MisuseError(
        f"{given} did not make these embeddings ({shown}); give the bundle that did as --engine, or embed "
        "again with this one"
    )


def recorded_address(engine: str | Path, bundle: Bundle) -> str:
    """How an index remembers the engine it was given: an absolute path, or a commit on the hub."""
    return str(Path(engine).resolve()) if bundle.hub is None else bundle.address()


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


def embed_queries(
    engine: str | Path,
    fingerprint: dict[str, Any],
    output: str,
    *,
    images: Sequence[ImageInput] = (),
    texts: Sequence[str] = (),
    device: str = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
    require_signature: Path | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> tuple[FloatArray, FloatArray]:
    """Images -> [I,D] and texts -> [T,D], embedded as the index with this `fingerprint` and `output`.

    `log` receives engine and device. Raises MisuseError for an engine that did not make the store, and for
    texts where it has no text graph or `output` is not `image_embedding`; ImageError for an image that cannot
    be read; and what `Embedder.open` raises.
    """
    bundle, file = require_same(engine, fingerprint, require_signature)
    steps = recorded_preprocess(fingerprint)
    found: list[FloatArray] = []
    words: list[FloatArray] = []
    if texts:
        check_text_output(output)
        with closing(TextEncoder.open(bundle, device=device)) as encoder:
            log(f"{encoder.choice.file} on {encoder.backend.device}, {encoder.backend.runtime}")
            words = list(encoder.encode(texts))
    if images:
        with Embedder.open_located(bundle, file, device=device) as embedder:
            log(embedder.choice)
            pixels = [steps(open_image(as_source(image), limits=limits)) for image in images]
            found = [pick(embedder.run(one[None]), [output])[output][0] for one in pixels]
    none = np.zeros((0, 0), np.float32)
    return np.stack(found) if found else none, np.stack(words) if words else none


def check_text_output(output: str) -> None:
    """Raise MisuseError for an index whose vectors no text can be compared with."""
    if output != IMAGE_EMBEDDING:
        raise MisuseError(
            f"the index is of the output {output}; a text is compared with {IMAGE_EMBEDDING}: dinodeploy "
            f"embed IMAGES --engine BUNDLE --outputs {IMAGE_EMBEDDING}, then dinodeploy index OUT --output "
            f"{IMAGE_EMBEDDING}, with the bundle of a dino.txt model"
        )


def mix_queries(images: Sequence[FloatArray], texts: Sequence[FloatArray], weight: float) -> FloatArray:
    """One query [D] of images and texts: their mean directions, the texts' with `weight` and the images' with
    1 - `weight`. Raises MisuseError for a weight outside 0..1."""
    if not 0 <= weight <= 1:
        raise MisuseError(
            f"--text-weight is {weight:g}; wanted a number from 0 (images only) to 1 (texts only)"
        )
    sides = [unit_length(np.stack(vectors))[0].mean(axis=0) for vectors in (images, texts)]
    found: FloatArray = ((1 - weight) * sides[0] + weight * sides[1]).astype(np.float32)
    return found
