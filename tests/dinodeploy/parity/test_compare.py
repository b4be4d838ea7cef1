"""May an index stay? Recall by hand, and real engines on real photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.errors import JudgementError, MisuseError
from dinodeploy.parity.compare import CRITERIA, compare, search_recall
from tests.support.faults import FAULTS, plant, reseal
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.tiny_models import export_tiny

K = 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ten photographs and their left and right halves."""
    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOGRAPHS:
        whole = photograph(name).resize((192, 128))
        for part, box in (
            ("whole", (0, 0, 192, 128)),
            ("left", (0, 0, 96, 128)),
            ("right", (96, 0, 192, 128)),
        ):
            whole.crop(box).save(folder / f"{name}_{part}.png")
    return sorted(str(path) for path in folder.iterdir())


def test_recall_by_hand() -> None:
    index = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    assert search_recall(index, index, 1) == 1.0
    assert search_recall(index, 5 * index, 1) == 1.0, "lengths do not count"
    assert search_recall(index, index[[2, 3, 0, 1]], 1) == 0.0, "queries that ask for the other side"
    assert search_recall(index, index[[0, 1, 0, 1]], 1) == 0.5


def test_a_row_is_not_its_own_neighbour() -> None:
    """Each query is still nearest to its own row; behind that, the first finds the other side."""
    degrees = np.radians([0, 10, -15])
    index = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    degrees[0] = np.radians(-4)
    queries = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    assert search_recall(index, queries, 1) == pytest.approx(2 / 3)


def test_recall_of_more_rows_than_one_block_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    index = rng.normal(size=(50, 8)).astype(np.float32)
    queries = index + 0.5 * rng.normal(size=index.shape).astype(np.float32)
    whole = search_recall(index, queries, 5)
    monkeypatch.setattr("dinodeploy.parity.compare.QUERIES", 7)
    assert search_recall(index, queries, 5) == whole
    assert 0.1 < whole < 0.9


def test_another_preset_may_not(tiny_bundle: Path, photos: list[str], tmp_path: Path) -> None:
    """The weights are the same, and each engine sees images through its own preprocessing."""
    found = compare(tiny_bundle, export_tiny(tmp_path / "b", preset="timm").root, photos, k=K)
    assert found.reindex
    assert not found.findings[0].passed
    assert found.worst_image in photos


def test_another_precision_may_search(tiny_bundle: Path, photos: list[str], tmp_path: Path) -> None:
    other = export_tiny(tmp_path / "fp16", recipe="fp16").root
    found = compare(tiny_bundle, other, photos, k=K)
    assert (found.verdict, found.images) == ("reindex: no", len(photos))
    assert [finding.metric for finding in found.findings] == [row.metric for row in CRITERIA]
    assert all(finding.passed for finding in found.findings)
    assert found.note == ""
    same = compare(tiny_bundle, tiny_bundle, photos, k=K)
    values = [finding.value for finding in same.findings]
    assert values == pytest.approx([1.0, 1.0, 1.0])


def test_other_widths_are_said_without_embedding(tiny_bundle: Path, tmp_path: Path) -> None:
    other = export_tiny(tmp_path / "b", "7b").root
    found = compare(tiny_bundle, other, ["nothing.png"] * 12)
    assert found.reindex
    assert found.note == "embeddings have 128 and 256 numbers: they cannot be compared at all"


def test_images_that_cannot_be_read_are_left_out(
    tiny_bundle: Path, photos: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    seen: list[tuple[int, int]] = []
    found = compare(
        tiny_bundle, tiny_bundle, [*photos[:5], str(broken)], k=K, advance=lambda *c: seen.append(c)
    )
    assert (found.images, found.skipped) == (5, (str(broken),))
    assert seen == [(5, 1)]
    assert found.note == "5 images for 3 neighbours: recall says little below 30"
    with pytest.raises(MisuseError, match="4 readable images for 3 neighbours; wanted at least 5"):
        compare(tiny_bundle, tiny_bundle, [*photos[:4], str(broken)], k=K)


def test_too_few_images_and_senseless_k(tiny_bundle: Path) -> None:
    with pytest.raises(MisuseError, match="11 readable images for 10 neighbours; wanted at least 12"):
        compare(tiny_bundle, tiny_bundle, ["a.png"] * 11)
    with pytest.raises(MisuseError, match="-k is 0"):
        compare(tiny_bundle, tiny_bundle, ["a.png"] * 11, k=0)


def test_an_engine_that_is_not_the_model_compares_with_nothing(
    tiny_bundle: Path, photos: list[str], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    (other / "parity.json").unlink()
    plant(other / "model.cpu.onnx", FAULTS["a linear's weight scaled"], "blocks.0", np.random.default_rng(0))
    reseal(other)
    with pytest.raises(JudgementError, match="is not the model here"):
        compare(tiny_bundle, other, photos, k=K)
