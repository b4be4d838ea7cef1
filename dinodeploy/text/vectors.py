"""Class vectors of labels: computed once with the text graph of a bundle, and cached on disk.

A text tower of the released size takes about a second per text on a CPU, and a label has 80 templates. The
name of a cache file is a hash of everything that decides the numbers: text graph, runtime, labels, templates.
A damaged cache file is computed again.

Shapes: K labels, E embedding size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.manifest import canonical
from dinodeploy.errors import BundleError
from dinodeploy.files.cache import cache_dir
from dinodeploy.files.tensors import load_tensors, save_tensors
from dinodeploy.text.classify import class_vector
from dinodeploy.text.encoder import TextEncoder
from dinodeploy.text.labels import Labels
from dinodeploy.text.templates import fill

CACHE = "texts"
_VERSION = 1  # of the cache: raised when the same texts give other vectors
_KEYS = ("whole", "patch")


@dataclass(frozen=True)
class ClassVectors:
    """Unit vectors of labels, the mean over the templates.

    whole: [K,E], to compare with image embeddings. patch: [K,E/2], to compare with patch embeddings: the
    second half of a text feature (docs/spec.md 5.8), brought to length 1 before the mean.
    """

    whole: FloatArray
    patch: FloatArray


def embed_labels(
    encoder: TextEncoder,
    labels: Labels,
    templates: tuple[str, ...],
    advance: Callable[[int, int], None] = lambda done, failed: None,
) -> ClassVectors:
    """The vectors of labels, from the cache if it has them. `advance` is called with the labels done."""
    path = cache_dir(CACHE) / f"{_key(encoder, labels, templates)}.safetensors"
    found = _cached(path, len(labels))
    if found is None:
        found = _compute(encoder, labels, templates, advance)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, {name: getattr(found, name) for name in _KEYS})
        except OSError:  # a full or read-only disk: computed again the next time
            pass
    return found


def _compute(
    encoder: TextEncoder,
    labels: Labels,
    templates: tuple[str, ...],
    advance: Callable[[int, int], None],
) -> ClassVectors:
    whole, patch = [], []
    for done, name in enumerate(labels.names, 1):
        texts = encoder.encode(fill(templates, name))
        whole.append(class_vector(texts))
        patch.append(class_vector(texts[:, texts.shape[1] // 2 :]))
        advance(done, 0)
    return ClassVectors(np.stack(whole).astype(np.float32), np.stack(patch).astype(np.float32))


def _key(encoder: TextEncoder, labels: Labels, templates: tuple[str, ...]) -> str:
    choice = encoder.choice
    what = {
        "version": _VERSION,
        "text": choice.manifest.text_sha256,
        "engine": choice.manifest.engine_sha256(choice.file),
        "runtime": encoder.backend.runtime,
        "device": encoder.backend.device,
        "labels": labels.names,
        "templates": templates,
    }
    return hashlib.sha256(canonical(what).encode()).hexdigest()


def _cached(path: Path, count: int) -> ClassVectors | None:
    if not path.is_file():
        return None
    try:
        found = load_tensors(path)
        vectors = ClassVectors(*(found[name] for name in _KEYS))
    except (BundleError, KeyError):  # truncated or damaged
        return None
    return vectors if len(vectors.whole) == len(vectors.patch) == count else None
