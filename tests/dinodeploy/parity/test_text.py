"""The judge of texts: planted faults fail, each in its own measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.arrays import FloatArray, IdArray
from dinodeploy.errors import BundleError
from dinodeploy.files.tensors import load_tensors, save_tensors
from dinodeploy.parity.measurement import Verdict
from dinodeploy.parity.text import GoldenTexts, judge_texts, load_texts, save_texts
from dinodeploy.parity.thresholds import TEXT_THRESHOLDS, THRESHOLDS

TEXTS = ("one", "", "drei 🐱", "four")
IDS = np.array([[8, 1, 9, 0], [8, 9, 0, 0], [8, 3, 9, 0], [8, 4, 5, 9]], np.int64)
TABLE = np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)


def run(ids: IdArray) -> FloatArray:
    """Sums what stands before the end: what is behind it does not count."""
    rows = [TABLE[row[: 1 + int(row.argmax())]] for row in ids]
    return np.stack([(part * np.arange(1, 1 + len(part))[:, None]).sum(axis=0) for part in rows])


GOLDEN = GoldenTexts(TEXTS, IDS, run(IDS))


def judged(of: Callable[[IdArray], FloatArray] = run, tokens: IdArray = IDS, recipe: str = "fp32") -> Verdict:
    return judge_texts(GOLDEN, lambda texts: tokens, of, recipe)


def test_the_reference_itself_passes() -> None:
    verdict = judged()
    assert verdict.passed
    assert {m.case for m in verdict.measurements} == {"all", "short", "one"}
    assert set(TEXT_THRESHOLDS) == set(THRESHOLDS)


@pytest.mark.parametrize(
    ("fault", "metric"),
    [
        (lambda ids: 2 * run(ids), "largest_error"),
        (lambda ids: run(ids)[::-1], "cosine"),
        (lambda ids: run(np.where(ids == 3, 4, ids)), "cosine"),  # one text
        (lambda ids: np.full_like(run(ids), np.nan), "cosine"),
        (lambda ids: run(ids)[:, :8], "cosine"),
        (lambda ids: run(np.roll(ids, 1, axis=1)), "cosine"),
        (lambda ids: run(ids) + ids.shape[1] - 4, "cosine"),  # right at the full length alone
        (lambda ids: run(ids) * len(ids) / 4, "largest_error"),  # right in one batch size alone
    ],
)
def test_planted_faults(fault: Callable[[IdArray], FloatArray], metric: str) -> None:
    verdict = judged(fault)
    assert not verdict.passed
    assert metric in {m.metric for m in verdict.failures}


def test_another_vocabulary_is_blamed_on_the_tokens() -> None:
    verdict = judged(tokens=np.where(IDS == 3, 4, IDS))
    assert [(m.metric, m.value) for m in verdict.failures] == [("same_tokens", 0.75)]
    assert judged(tokens=IDS[:, :3]).failures[0].value == 0.0


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "golden.text.safetensors"
    save_texts(GOLDEN, path)
    loaded = load_texts(path)
    assert loaded.texts == TEXTS
    assert (loaded.token_ids == IDS).all()
    assert (loaded.embeddings == GOLDEN.embeddings).all()


@pytest.mark.parametrize("drop", ["text_1", "token_ids", "text_embedding"])
def test_an_incomplete_file(tmp_path: Path, drop: str) -> None:
    path = tmp_path / "golden.text.safetensors"
    save_texts(GOLDEN, path)
    save_tensors(path, {name: array for name, array in load_tensors(path).items() if name != drop})
    with pytest.raises(BundleError, match="incomplete; wanted texts, and token_ids"):
        load_texts(path)


def test_a_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "golden.text.safetensors"
    save_texts(GOLDEN, path)
    save_tensors(path, {**load_tensors(path), "text_0": np.array([255], np.uint8)})
    with pytest.raises(BundleError, match="not UTF-8"):
        load_texts(path)
