"""A bundle of format 1, written by commit 269b515, still opens, embeds and checks with the same bits.

tests/data/format1_bundle: two blocks of width 64, random weights, photographs scaled down to 96 pixels.
tests/data/format1_embeddings.json: what 269b515 computed from it, on the runtime and device that it names.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.bundle.archive import pack, unpack
from dinodeploy.bundle.bundle import GOLDEN_FILE, file_facts, open_bundle
from dinodeploy.bundle.manifest import FILE_NAME, EngineFacts, read_manifest, write_manifest
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.golden import load_golden
from dinodeploy.parity.receipts import find_receipt

DATA = Path(__file__).parents[2] / "data"
ENGINES = ("model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx", "model.cls.onnx")
RECORDED = json.loads((DATA / "format1_embeddings.json").read_text())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "format1_bundle", tmp_path / "bundle"))


def test_its_manifest_gets_an_entry_for_every_graph(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.format == 1
    assert list(json.loads((bundle / FILE_NAME).read_text())["engines"]) == list(ENGINES[:2])
    assert set(manifest.engines) == set(ENGINES)
    assert manifest.engines["model.cpu.cls.onnx"] == EngineFacts(
        "onnxruntime",
        ("model.cpu.cls.onnx", "model.cpu.onnx", "model.onnx"),
        outputs=("cls",),
        same_numbers_as="model.cpu.onnx",
    )
    full = manifest.fingerprint("model.cpu.onnx", manifest.preprocess)
    assert manifest.fingerprint("model.cpu.cls.onnx", manifest.preprocess) == full
    assert full["engine_sha256"] == manifest.files["model.cpu.onnx"].sha256, "stores of format 1 stay valid"
    open_bundle(bundle).verify()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_numbers(engine: str, bundle: Path) -> None:
    cases = load_golden(bundle / GOLDEN_FILE)
    with Embedder.open(bundle / engine, device="onnxruntime", threads=1) as embedder:
        outputs = [embedder.run(case.pixels) for case in cases]
        here = (embedder.backend.runtime, embedder.backend.device)
    recorded = RECORDED[engine]
    for got, first in zip(outputs, recorded["cls"], strict=True):
        np.testing.assert_allclose(got["cls"][0][:8], first, rtol=1e-4, atol=1e-5)
    if here == (RECORDED["runtime"], RECORDED["device"]):
        hashes = {
            case.name: {name: _hash(array) for name, array in got.items()}
            for case, got in zip(cases, outputs, strict=True)
        }
        assert hashes == recorded["sha256"]


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_its_receipts_are_still_valid(bundle: Path) -> None:
    for engine in ("model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx"):
        choice = open_bundle(bundle).choose(engine)
        assert find_receipt(choice, RECORDED["runtime"], RECORDED["device"]) is not None


def test_it_is_judged(bundle: Path) -> None:
    _, receipt, verdict = check_bundle(bundle)
    assert verdict.passed
    assert receipt.holds(open_bundle(bundle).manifest)
    with Embedder.open(bundle, outputs=("cls",), device="onnxruntime") as embedder:
        assert embedder.engine.file == "model.cpu.cls.onnx"


def test_it_stays_format_1_when_it_gets_a_plan(bundle: Path) -> None:
    before = read_manifest(bundle)
    (bundle / "model.plan").write_bytes(b"plan")
    engines = {**before.engines, "model.plan": EngineFacts("tensorrt", ("model.plan",))}
    files = {**before.files, "model.plan": file_facts(bundle / "model.plan")}
    write_manifest(replace(before, engines=engines, files=files), bundle)
    after = read_manifest(bundle)
    assert after.facts() == before.facts(), "what the graphs repeat in their metadata"
    assert set(after.engines) == {*before.engines, "model.plan"}
    written = json.loads((bundle / FILE_NAME).read_text())
    assert list(written["engines"]) == ["model.cpu.onnx", "model.onnx", "model.plan"]


def test_it_packs_and_unpacks(bundle: Path, tmp_path: Path) -> None:
    out = unpack(pack(bundle, tmp_path / "b.zip"), tmp_path / "out")
    assert read_manifest(out) == read_manifest(bundle)
