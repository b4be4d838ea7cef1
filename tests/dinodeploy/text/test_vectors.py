"""Class vectors: the mean over templates, both halves, cached by everything that decides them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dinodeploy.files.cache import cache_dir
from dinodeploy.text.classify import class_vector
from dinodeploy.text.labels import labels_of
from dinodeploy.text.vectors import CACHE, embed_labels


class Encoder:
    """As much of a `TextEncoder` as is used: an embedding of 6 numbers per text, and a count of texts."""

    def __init__(self, text_sha256: str = "a") -> None:
        manifest = SimpleNamespace(text_sha256=text_sha256, engine_sha256=lambda file: f"{file}{text_sha256}")
        self.choice = SimpleNamespace(manifest=manifest, file="text.onnx")
        self.backend = SimpleNamespace(runtime="onnxruntime 1", device="cpu")
        self.texts: list[str] = []

    def encode(self, texts: list[str]) -> Any:
        self.texts += texts
        rows = [np.random.default_rng(list(text.encode())).normal(size=6) for text in texts]
        return np.stack(rows).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_both_vectors_are_means_over_the_templates() -> None:
    encoder: Any = Encoder()
    done: list[int] = []
    found = embed_labels(
        encoder, labels_of(["cat", "dog"]), ("a {}", "the {}"), lambda count, failed: done.append(count)
    )
    assert encoder.texts == ["a cat", "the cat", "a dog", "the dog"]
    assert done == [1, 2]
    texts = Encoder().encode(["a cat", "the cat"])
    np.testing.assert_allclose(found.whole[0], class_vector(texts), rtol=1e-6)
    np.testing.assert_allclose(found.patch[0], class_vector(texts[:, 3:]), rtol=1e-6)


def test_the_cache_is_used_only_for_the_same_texts_and_graph() -> None:
    labels, templates = labels_of(["cat", "dog"]), ("a {}",)
    first: Any = Encoder()
    wanted = embed_labels(first, labels, templates)
    again: Any = Encoder()
    np.testing.assert_array_equal(embed_labels(again, labels, templates).whole, wanted.whole)
    assert again.texts == []
    for encoder, named, filled in (
        (Encoder("b"), labels, templates),
        (Encoder(), labels_of(["dog", "cat"]), templates),
        (Encoder(), labels, ("the {}",)),
    ):
        embed_labels(encoder, named, filled)  # type: ignore[arg-type]
        assert len(encoder.texts) == 2


def test_a_damaged_cache_file_is_computed_again() -> None:
    labels, templates = labels_of(["cat"]), ("a {}",)
    wanted = embed_labels(Encoder(), labels, templates)  # type: ignore[arg-type]
    (file,) = cache_dir(CACHE).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    encoder: Any = Encoder()
    np.testing.assert_array_equal(embed_labels(encoder, labels, templates).whole, wanted.whole)
    assert encoder.texts == ["a cat"]
