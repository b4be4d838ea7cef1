"""Receipts: made on first use, valid for one engine, runtime and device, and never taken at their word."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest

from dinodeploy import Embedder
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, file_facts, open_bundle
from dinodeploy.bundle.manifest import EngineFacts, as_recorded, read_manifest, write_manifest
from dinodeploy.bundle.signing import SignedCopy
from dinodeploy.errors import JudgementError
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.measurement import Measurement, Verdict
from dinodeploy.parity.receipts import FILE_NAME, find_receipt, make_receipt, read_receipts, save_receipt
from dinodeploy.parity.thresholds import THRESHOLDS

FORMAT1 = Path(__file__).parents[2] / "data" / "format1_bundle"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dinodeploy" / "receipts"


def forget(bundle: Path) -> Bundle:
    (bundle / FILE_NAME).unlink()
    return open_bundle(bundle)


def count_judgements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls = [0]
    original = Embedder.check

    def counted(self: Embedder):  # type: ignore[no-untyped-def]
        calls[0] += 1
        return original(self)

    monkeypatch.setattr(Embedder, "check", counted)
    return calls


def test_export_leaves_a_receipt_that_is_used(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_judgements(monkeypatch)
    with Embedder.open(own_bundle) as embedder:
        assert embedder.receipt is not None
        assert embedder.receipt.holds(embedder.manifest)
    assert calls == [0]


def test_without_one_the_judge_runs_once(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(own_bundle)
    calls = count_judgements(monkeypatch)
    for _ in range(2):
        Embedder.open(own_bundle).close()
    assert calls == [1]
    assert (own_bundle / FILE_NAME).exists()


def test_unverified_use_neither_judges_nor_writes(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(own_bundle)
    calls = count_judgements(monkeypatch)
    with Embedder.open(own_bundle, allow_unverified=True) as embedder:
        assert embedder.receipt is None
    assert calls == [0]
    assert not (own_bundle / FILE_NAME).exists()


@pytest.mark.parametrize(
    "field",
    ["engine_sha256", "golden_sha256", "judged_sha256", "runtime", "device", "recipe", "engine"],
)
def test_a_receipt_is_for_one_engine_runtime_and_device(own_bundle: Path, field: str) -> None:
    bundle = open_bundle(own_bundle)
    receipt = next(one for one in read_receipts(bundle) if one.engine == "model.cpu.onnx")
    assert find_receipt(bundle.choose(), receipt.runtime, receipt.device) == receipt
    forget(own_bundle)
    save_receipt(bundle, dataclasses.replace(receipt, **{field: "another"}))
    assert find_receipt(bundle.choose(), receipt.runtime, receipt.device) is None


def test_numbers_count_more_than_a_yes(own_bundle: Path) -> None:
    """A receipt edited to pass, or from a time of looser thresholds, does not hold."""
    manifest = open_bundle(own_bundle).manifest
    receipt = next(one for one in read_receipts(open_bundle(own_bundle)) if one.engine == "model.cpu.onnx")
    limit = next(row.limit for row in THRESHOLDS["fp32"] if row.metric == "relative_frobenius")
    worse = tuple(
        dataclasses.replace(m, value=2 * limit) if m.metric == "relative_frobenius" else m
        for m in receipt.measurements
    )
    assert receipt.holds(manifest)
    assert not dataclasses.replace(receipt, measurements=worse).holds(manifest)
    assert not dataclasses.replace(receipt, measurements=()).holds(manifest)
    assert not dataclasses.replace(receipt, measurements=receipt.measurements[:3]).holds(manifest)
    assert not dataclasses.replace(receipt, passed=False).holds(manifest)


def test_a_head_is_held_against_the_limits_of_today(own_bundle: Path) -> None:
    receipt = next(one for one in read_receipts(open_bundle(own_bundle)) if one.engine == "model.cpu.onnx")
    manifest = open_bundle(own_bundle).manifest
    for value, holds in ((1e-6, True), (0.5, False)):
        head = Measurement("all", "logits", "head_error", value, 1.0, True)
        assert (
            dataclasses.replace(receipt, measurements=(*receipt.measurements, head)).holds(manifest) is holds
        )


@pytest.mark.parametrize("where", ["bundle", "cache"])
def test_judgements_at_one_moment_are_all_kept(own_bundle: Path, cache: Path, where: str) -> None:
    """A failure that another process overwrites would leave what it voids."""
    bundle = forget(own_bundle)
    before = {path.name for path in own_bundle.iterdir()}
    if where == "cache":  # which alone counts where a signature was required
        bundle = dataclasses.replace(bundle, signed=cast(SignedCopy, SimpleNamespace(source=bundle.root)))
    receipt = make_receipt(bundle.choose(), "runtime", "device", Verdict("fp32", ()))
    together = threading.Barrier(8)

    def save(number: int) -> None:
        together.wait()
        for turn in range(4):
            save_receipt(bundle, dataclasses.replace(receipt, runtime=f"{number} {turn}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(8)))
    assert len(read_receipts(bundle)) == 32
    assert {path.name for path in own_bundle.iterdir()} - {FILE_NAME} == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', "\x00"])
def test_a_broken_receipt_file_only_costs_a_judgement(own_bundle: Path, content: str) -> None:
    (own_bundle / FILE_NAME).write_text(content)
    with Embedder.open(own_bundle) as embedder:
        assert embedder.receipt is not None
    assert json.loads((own_bundle / FILE_NAME).read_text())["receipts"]


def refuse_writes(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a bundle read-only: simulated, since root can write anywhere."""
    from dinodeploy.parity import receipts

    original = receipts.atomic_file

    def refuse_in_bundle(path: Path):  # type: ignore[no-untyped-def]
        if path.parent == bundle.root:
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(receipts, "atomic_file", refuse_in_bundle)


def test_a_read_only_bundle_keeps_its_receipt_in_the_cache(
    own_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle refuses, the cache does not."""
    bundle = forget(own_bundle)
    refuse_writes(bundle, monkeypatch)
    calls = count_judgements(monkeypatch)
    for _ in range(2):
        Embedder.open(own_bundle).close()
    assert calls == [1]
    assert len(list(cache.glob("*.json"))) == 1
    assert not (own_bundle / FILE_NAME).exists()


def test_a_new_receipt_takes_the_old_ones_place(own_bundle: Path) -> None:
    forget(own_bundle)
    for _ in range(2):
        check_bundle(own_bundle)
    assert [receipt.engine for receipt in read_receipts(open_bundle(own_bundle))] == ["model.cpu.onnx"]


def test_a_rejected_engine_is_not_opened(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds that nothing passes: open refuses, the receipt says failed, unverified use works."""
    from dinodeploy.parity import judge as parity

    impossible = (parity.Threshold("relative_frobenius", 0.0, 0.0),)
    monkeypatch.setitem(parity.THRESHOLDS, "fp32", impossible)
    forget(own_bundle)
    with pytest.raises(
        JudgementError, match=r"is not the model here: .*relative_frobenius is .*dinodeploy check"
    ):
        Embedder.open(own_bundle)
    (receipt,) = read_receipts(open_bundle(own_bundle))
    assert not receipt.passed
    Embedder.open(own_bundle, allow_unverified=True).close()


# ---- every byte, and the whole family -------------------------------------------------------------------


def reseal(root: Path, **changes: object) -> None:
    """What somebody does who changed files and wants nobody to notice."""
    manifest = read_manifest(root)
    files = {name: file_facts(root / name) for name in manifest.files}
    write_manifest(dataclasses.replace(manifest, files=files, **changes), root)  # type: ignore[arg-type]


def reverse_weights(root: Path, graph: str = "model.cpu.onnx") -> None:
    """Turn the largest weight of a graph around, wherever it is kept."""
    model = onnx.load(root / graph, load_external_data=False)
    stored = [one for one in model.graph.initializer if one.external_data]
    largest = max(stored, key=lambda one: int(onnx.external_data_helper.ExternalDataInfo(one).length))
    place = onnx.external_data_helper.ExternalDataInfo(largest)
    path, begin, end = root / place.location, place.offset or 0, (place.offset or 0) + place.length
    content = bytearray(path.read_bytes())
    content[begin:end] = np.frombuffer(bytes(content[begin:end]), "<f4")[::-1].tobytes()
    path.write_bytes(content)


@pytest.fixture(params=["format 1", "format 2"])
def bundle_of_any_format(request: pytest.FixtureRequest, own_bundle: Path, tmp_path: Path) -> Path:
    if request.param == "format 2":
        return own_bundle
    return Path(shutil.copytree(FORMAT1, tmp_path / "old" / "bundle"))


@pytest.mark.parametrize("outputs", [None, ("cls",)], ids=["all", "cls"])
def test_damaged_weights_are_judged_anew_and_refused(
    bundle_of_any_format: Path, outputs: tuple[str, ...] | None
) -> None:
    root = bundle_of_any_format
    Embedder.open(root, outputs=outputs, device="onnxruntime").close()  # with a receipt of the good weights
    reverse_weights(root)
    reseal(root)
    for _ in range(2):
        with pytest.raises(JudgementError, match="is not the model here"):
            Embedder.open(root, outputs=outputs, device="onnxruntime")


@pytest.mark.parametrize("engine", ["model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx", "model.cls.onnx"])
def test_each_byte_that_an_engine_reads_is_in_its_fingerprint(
    bundle_of_any_format: Path, engine: str
) -> None:
    root = bundle_of_any_format
    before = read_manifest(root)
    for name in before.files_of(engine):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        reseal(root)
        now = read_manifest(root)
        assert now.fingerprint(engine, now.preprocess) != before.fingerprint(engine, before.preprocess), name
        assert now.judged_sha256(engine, GOLDEN_FILE) != before.judged_sha256(engine, GOLDEN_FILE), name
        (root / name).write_bytes(content)
        reseal(root)


def test_the_cls_only_graph_has_the_fingerprint_of_the_full_one(bundle_of_any_format: Path) -> None:
    manifest = read_manifest(bundle_of_any_format)
    full = manifest.fingerprint("model.cpu.onnx", manifest.preprocess)
    assert manifest.fingerprint("model.cpu.cls.onnx", manifest.preprocess) == full
    old = {key: value for key, value in full.items() if key != "files_sha256"}
    assert as_recorded(full, old) == old, "stores of older versions are still of this bundle"
    assert as_recorded(full, full) == full


def test_the_facts_that_decide_the_outputs_are_covered(own_bundle: Path) -> None:
    """Of a plan: a graph has them inside and is refused at once."""
    manifest = read_manifest(own_bundle)
    judged = manifest.judged_sha256("model.cpu.onnx", GOLDEN_FILE)
    changes = {
        "preprocess": dataclasses.replace(manifest.preprocess, mean=(0.5, 0.5, 0.5)),
        "outputs": manifest.outputs[::-1],
        "graph": dataclasses.replace(manifest.graph, recipe="bf16"),
        "model": dataclasses.replace(manifest.model, sha256="0" * 64),
        "engines": {**manifest.engines, "model.cpu.onnx": EngineFacts("onnxruntime", ("model.cpu.onnx",))},
    }
    for name, value in changes.items():
        other = dataclasses.replace(manifest, **{name: value})  # type: ignore[arg-type]
        assert other.judged_sha256("model.cpu.onnx", GOLDEN_FILE) != judged, name


def test_a_failed_judgement_voids_the_receipts_of_the_family(own_bundle: Path) -> None:
    """The CLS-only graph and the other dialect read the same weights."""
    bundle = open_bundle(own_bundle)
    good = read_receipts(bundle)
    assert {one.engine for one in good} >= {"model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx"}
    receipt = next(one for one in good if one.engine == "model.cpu.onnx")
    save_receipt(bundle, dataclasses.replace(receipt, passed=False, runtime="another runtime"))
    for engine in ("model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx"):
        assert find_receipt(bundle.choose(engine), receipt.runtime, receipt.device) is None
    save_receipt(bundle, receipt)  # judged again, after the failure
    assert find_receipt(bundle.choose(), receipt.runtime, receipt.device) == receipt
    assert find_receipt(bundle.choose("model.cpu.cls.onnx"), receipt.runtime, receipt.device) is None


def test_a_failure_voids_receipts_that_cannot_be_removed(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is read-only: its receipts stay in parity.json, and the failure is in the cache."""
    bundle = open_bundle(own_bundle)
    receipt = next(one for one in read_receipts(bundle) if one.engine == "model.cpu.onnx")
    refuse_writes(bundle, monkeypatch)
    save_receipt(bundle, dataclasses.replace(receipt, passed=False))
    for engine in ("model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx"):
        assert find_receipt(bundle.choose(engine), receipt.runtime, receipt.device) is None
    save_receipt(bundle, receipt)
    assert find_receipt(bundle.choose(), receipt.runtime, receipt.device) == receipt
