"""Queries of images and texts: never of another model, and mixed by their directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder, MisuseError
from dinodeploy.bundle.bundle import locate
from dinodeploy.search.query import embed_queries, mix_queries
from tests.support.text.words import SHAPES, write_shapes


def test_texts_and_images_of_one_bundle(words_bundle: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, SHAPES)
    bundle, _ = locate(words_bundle)
    fingerprint = bundle.manifest.fingerprint("model.onnx", bundle.manifest.preprocess)
    images = [tmp_path / name for name in SHAPES]
    texts = [f"a {c} {shape} on a {t} {g} background" for shape, c, t, g, _ in SHAPES.values()]
    seen, said = embed_queries(words_bundle, fingerprint, "image_embedding", images=images, texts=texts)
    with Embedder.open(words_bundle) as embedder:
        np.testing.assert_allclose(said, embedder.encode_text(texts), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            seen, embedder.encode(images, output="image_embedding"), rtol=1e-4, atol=1e-5
        )
    none, _ = embed_queries(words_bundle, fingerprint, "image_embedding", texts=texts[:1])
    assert len(none) == 0


def test_another_text_graph_is_refused(words_bundle: Path) -> None:
    """The image graph is the same; only the texts differ."""
    bundle, _ = locate(words_bundle)
    fingerprint = bundle.manifest.fingerprint("model.onnx", bundle.manifest.preprocess)
    assert len(fingerprint["text_sha256"]) == 64
    for other in ({**fingerprint, "text_sha256": "0" * 64}, without(fingerprint, "text_sha256")):
        with pytest.raises(MisuseError, match=r"did not make these embeddings \(.*text_sha256: "):
            embed_queries(words_bundle, other, "image_embedding", texts=["a red circle"])


def without(fingerprint: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in fingerprint.items() if name != key}


def test_texts_need_an_index_of_image_embeddings(words_bundle: Path, tiny_bundle: Path) -> None:
    for root in (words_bundle, tiny_bundle):
        bundle, _ = locate(root)
        fingerprint = bundle.manifest.fingerprint("model.onnx", bundle.manifest.preprocess)
        with pytest.raises(
            MisuseError, match="output cls; a text is compared with image_embedding: dinodeploy"
        ):
            embed_queries(root, fingerprint, "cls", texts=["a red circle"])
    with pytest.raises(MisuseError, match=r"has no text graph; export a dino\.txt model"):
        embed_queries(tiny_bundle, fingerprint, "image_embedding", texts=["a red circle"])


def test_a_mixed_query_is_the_weighted_mean_of_directions() -> None:
    images, texts = [np.array([3.0, 0, 0]), np.array([0, 5.0, 0])], [np.array([0, 0, 0.5])]
    found = mix_queries([x.astype(np.float32) for x in images], [x.astype(np.float32) for x in texts], 0.25)
    np.testing.assert_allclose(found, [0.375, 0.375, 0.25], rtol=1e-6)
    with pytest.raises(MisuseError, match=r"--text-weight is 1\.5; wanted a number from 0"):
        mix_queries([images[0].astype(np.float32)], [texts[0].astype(np.float32)], 1.5)
