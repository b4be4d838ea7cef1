"""`Embedder.encode_text` and the text graph of a bundle: verified, judged, refused where it is foreign."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.bundle.archive import pack, unpack
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.errors import JudgementError, MisuseError, TamperedError
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.receipts import find_receipt, read_receipts
from dinodeploy.text.encoder import BATCH, TextEncoder, text_candidates
from tests.support.text.tiny_text import export_tiny_text
from tests.support.tiny_models import ONNXRUNTIME


@pytest.fixture
def bundle(tiny_text_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_text_bundle, tmp_path / "copy"))


def test_texts_become_embeddings(tiny_text_bundle: Path) -> None:
    texts = [f"a photo of {number} cats" for number in range(BATCH + 3)]
    with Embedder.open(tiny_text_bundle, device=ONNXRUNTIME) as embedder:
        many = embedder.encode_text(texts)
        assert many.shape == (len(texts), 256)
        assert many.dtype == np.float32
        assert embedder.encode_text(texts[-1]).shape == (256,)
        np.testing.assert_allclose(embedder.encode_text(texts[-1]), many[-1], atol=1e-4)
        assert embedder.encode_text([]).shape == (0, 256)
        unit = embedder.encode_text(iter(texts[:2]), normalize=True)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, rtol=1e-6)


def test_after_close_there_is_nothing(tiny_text_bundle: Path) -> None:
    with Embedder.open(tiny_text_bundle, device=ONNXRUNTIME) as embedder:
        embedder.encode_text("x")
    with pytest.raises(MisuseError, match="closed"):
        embedder.encode_text("x")


def test_a_bundle_without_texts(tiny_bundle: Path) -> None:
    embedder = Embedder.open(tiny_bundle, device=ONNXRUNTIME)
    with embedder, pytest.raises(MisuseError, match=r"has no text graph; export a dino\.txt model"):
        embedder.encode_text("x")


def test_it_is_judged_by_the_export_and_again_when_that_is_lost(bundle: Path) -> None:
    opened = open_bundle(bundle)
    (choice,) = text_candidates(opened, "cpu")
    encoder = TextEncoder.open(opened)
    assert encoder.receipt is not None
    assert find_receipt(choice, encoder.backend.runtime, encoder.backend.device) == encoder.receipt
    (bundle / "parity.json").unlink()
    assert find_receipt(choice, encoder.backend.runtime, encoder.backend.device) is None
    encoder.close()
    TextEncoder.open(opened, allow_unverified=True).close()
    assert not read_receipts(opened)
    TextEncoder.open(opened).close()
    assert [receipt.engine for receipt in read_receipts(opened)] == ["text.onnx"]


def test_a_receipt_that_claims_too_much_does_not_count(bundle: Path) -> None:
    path = bundle / "parity.json"
    kept = json.loads(path.read_text())
    for receipt in kept["receipts"]:
        receipt["measurements"] = [m for m in receipt["measurements"] if m["metric"] != "same_tokens"]
    path.write_text(json.dumps(kept))
    opened = open_bundle(bundle)
    (choice,) = text_candidates(opened, "cpu")
    (receipt,) = [receipt for receipt in read_receipts(opened) if receipt.engine == choice.file]
    assert find_receipt(choice, receipt.runtime, receipt.device) is None


@pytest.mark.parametrize("name", ["text.onnx", "text.onnx.data", "tokenizer.json", "golden.text.safetensors"])
def test_a_changed_file_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(TamperedError, match=name):
        TextEncoder.open(open_bundle(bundle))


@pytest.mark.slow
def test_a_text_graph_of_another_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Even with hashes that match."""
    from dataclasses import replace

    from dinodeploy.bundle.bundle import file_facts
    from dinodeploy.bundle.manifest import write_manifest

    other = export_tiny_text(tmp_path / "other", seed=1)
    manifest = open_bundle(bundle).manifest
    names = ("text.onnx", "text.onnx.data", "golden.text.safetensors")
    for name in names:
        shutil.copyfile(other.root / name, bundle / name)
    files = {**manifest.files, **{name: file_facts(bundle / name) for name in names}}
    write_manifest(replace(manifest, files=files), bundle)
    with pytest.raises(TamperedError, match="exported with other facts"):
        TextEncoder.open(open_bundle(bundle))


def test_a_wrong_graph_is_rejected(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / "parity.json").unlink()
    run = TextEncoder.run
    monkeypatch.setattr(TextEncoder, "run", lambda self, ids: 1.01 * run(self, ids))
    with pytest.raises(JudgementError, match="is not the model here: text_embedding"):
        TextEncoder.open(open_bundle(bundle))


def test_devices(tiny_text_bundle: Path) -> None:
    opened = open_bundle(tiny_text_bundle)
    assert [choice.backend for choice in text_candidates(opened, "auto")] == [
        "onnxruntime_cuda",
        "onnxruntime",
    ]
    assert [choice.file for choice in text_candidates(opened, "openvino")] == ["text.onnx"]
    with pytest.raises(MisuseError, match="--device 'tpu' is unknown"):
        text_candidates(opened, "tpu")


def test_packed_and_verified_like_every_file(tiny_text_bundle: Path, tmp_path: Path) -> None:
    archive = pack(tiny_text_bundle, tmp_path / "bundle.tar")
    assert archive is not None
    root = unpack(tmp_path / "bundle.tar", tmp_path / "unpacked")
    assert root is not None
    opened = open_bundle(tmp_path / "unpacked")
    opened.verify()
    assert {"text.onnx", "text.onnx.data", "tokenizer.json", "golden.text.safetensors"} <= set(
        opened.manifest.files
    )
    with Embedder.open(tmp_path / "unpacked", device=ONNXRUNTIME) as embedder:
        assert embedder.encode_text("x").shape == (256,)


def test_check_judges_both_graphs(bundle: Path) -> None:
    _, receipt, verdict = check_bundle(bundle, device=ONNXRUNTIME)
    assert verdict.passed
    assert receipt.engine == "model.cpu.onnx"
    assert {"image_embedding", "patch_embedding", "token_ids", "text_embedding"} <= {
        m.output for m in verdict.measurements
    }
    alone = check_bundle(bundle, device=ONNXRUNTIME, text=False)[2]
    assert "text_embedding" not in {m.output for m in alone.measurements}
