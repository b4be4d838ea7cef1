"""Receipts: made on first use, valid for one engine, runtime and device, and never taken at their word."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dinodeploy import Embedder
from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.errors import JudgementError
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.judge import THRESHOLDS
from dinodeploy.parity.receipts import FILE_NAME, find_receipt, read_receipts, save_receipt


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
        assert embedder.receipt.holds()
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
    receipt = next(one for one in read_receipts(open_bundle(own_bundle)) if one.engine == "model.cpu.onnx")
    limit = next(row.limit for row in THRESHOLDS["fp32"] if row.metric == "relative_frobenius")
    worse = tuple(
        dataclasses.replace(m, value=2 * limit) if m.metric == "relative_frobenius" else m
        for m in receipt.measurements
    )
    assert receipt.holds()
    assert not dataclasses.replace(receipt, measurements=worse).holds()
    assert not dataclasses.replace(receipt, measurements=()).holds()
    assert not dataclasses.replace(receipt, measurements=receipt.measurements[:3]).holds()
    assert not dataclasses.replace(receipt, passed=False).holds()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', "\x00"])
def test_a_broken_receipt_file_only_costs_a_judgement(own_bundle: Path, content: str) -> None:
    (own_bundle / FILE_NAME).write_text(content)
    with Embedder.open(own_bundle) as embedder:
        assert embedder.receipt is not None
    assert json.loads((own_bundle / FILE_NAME).read_text())["receipts"]


def test_a_read_only_bundle_keeps_its_receipt_in_the_cache(
    own_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, since root can write anywhere: the bundle refuses, the cache does not."""
    from dinodeploy.parity import receipts

    bundle = forget(own_bundle)
    original = receipts.atomic_file

    def refuse_in_bundle(path: Path):  # type: ignore[no-untyped-def]
        if path.parent == bundle.root:
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(receipts, "atomic_file", refuse_in_bundle)
    calls = count_judgements(monkeypatch)
    for _ in range(2):
        Embedder.open(own_bundle).close()
    assert calls == [1]
    assert len(list(cache.iterdir())) == 1
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
