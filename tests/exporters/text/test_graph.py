"""Both graphs of a dino.txt bundle against plain numpy in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.bundle.bundle import open_bundle
from dinov3_ref.text import Tokenizer
from exporters.bisect import bisect_bundle
from tests.support.text import numpy_dinotxt as reference
from tests.support.text.tiny_text import VOCAB_SIZE, VOCABULARY, export_tiny_text, tiny_dinotxt
from tests.support.tiny_models import ONNXRUNTIME

LIMIT = 1e-5
LANGUAGES = ("", "!", "🐱🚲 emoji", "沙发上的猫", "кошка", "قطة", "&lt;b&gt; <|endoftext|> after", "café")


@pytest.fixture(scope="module")
def embedder(tiny_text_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_text_bundle, device=ONNXRUNTIME) as opened:
        yield opened


@pytest.mark.parametrize(("height", "width", "batch"), [(224, 224, 1), (256, 384, 5), (64, 48, 2)])
def test_images(embedder: Embedder, height: int, width: int, batch: int) -> None:
    pixels = np.random.default_rng(0).standard_normal((batch, 3, height, width), dtype=np.float32)
    loaded = tiny_dinotxt()
    vit, head = reference.as_float64(loaded.backbone.state), reference.as_float64(loaded.state)
    image, patches, _ = reference.encode_image(pixels.astype(np.float64), vit, head, heads=2)
    got = embedder.run(pixels)
    assert reference.relative(got["image_embedding"], image) < LIMIT
    assert reference.relative(got["patch_embedding"], patches) < LIMIT


def test_texts(embedder: Embedder) -> None:
    texts = [*LANGUAGES, *(" ".join(["bicycle"] * count) for count in (1, 2, 10, 70, 76, 100))]
    ids = Tokenizer(VOCABULARY, VOCAB_SIZE).tokenize(texts).numpy()
    wanted = reference.encode_text(ids, reference.as_float64(tiny_dinotxt().state))
    got = embedder.encode_text(texts)
    assert got.dtype == np.float32
    for row, expected in zip(got, wanted, strict=True):
        assert reference.relative(row, expected) < LIMIT
    alone = np.stack([embedder.encode_text(text) for text in texts])
    assert reference.relative(alone, wanted) < LIMIT


def test_what_the_bundle_says(tiny_text_bundle: Path) -> None:
    manifest, loaded = open_bundle(tiny_text_bundle).manifest, tiny_dinotxt()
    assert manifest.text is not None
    assert [(out.name, out.shape[0], out.shape[-1]) for out in manifest.outputs] == [
        ("image_embedding", "batch", 256),
        ("patch_embedding", "batch", 128),
    ]
    assert manifest.text.embed_dim == 256
    assert manifest.text.logit_scale == pytest.approx(np.exp(loaded.log_scale))
    assert list(manifest.text_engines) == ["text.onnx"]
    assert set(manifest.text_engines["text.onnx"].files) == {"text.onnx", "text.onnx.data"}
    assert not set(manifest.engines) & set(manifest.text_engines)


@pytest.mark.slow
def test_the_backbones_own_outputs_on_request(tmp_path: Path) -> None:
    made = export_tiny_text(tmp_path / "bundle", backbone_outputs=True, layers=(0,))
    names = [output.name for output in made.manifest.outputs]
    assert names == ["image_embedding", "patch_embedding", "cls", "storage", "patch", "layer_0"]
    assert "model.cls.onnx" in made.manifest.engines


def test_bisect_ends_at_the_embeddings(tiny_text_bundle: Path) -> None:
    found = bisect_bundle(open_bundle(tiny_text_bundle).choose("model.onnx"))
    assert found.departs is None
    outputs = found.places[-1]
    assert outputs.name == "outputs"
    assert set(outputs.groups) == {"cls", "patch"}
    assert outputs.step is not None
    assert outputs.step > 0
