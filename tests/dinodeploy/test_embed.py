"""Embedding a listing: order, ids and rows stay together whatever fails; decoding stays bounded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder, MisuseError, load_embeddings
from dinodeploy import embed as embedding
from dinodeploy.embed import Decoded, decode_ahead, embed_listing, run_ahead
from dinodeploy.preprocess import Preprocess
from dinodeploy.store import EmbeddingWriter
from tests.photographs import photograph


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven files, of which the second, fifth and last are no pictures."""
    (tmp_path / "in").mkdir()
    names = ["astronaut", "", "chelsea", "coffee", "", "rocket", ""]
    for index, name in enumerate(names):
        path = tmp_path / "in" / f"{index}.jpg"
        if name:
            photograph(name).save(path)
        else:
            path.write_bytes(b"no picture")
    return tmp_path / "in"


def embed_folder(embedder: Embedder, folder: Path, out: Path, **options: int) -> tuple[int, int]:
    ids = sorted(map(str, folder.iterdir()))
    preprocess = embedder.preprocess.with_size(64, 96)
    with EmbeddingWriter(out, format="npy", outputs=("cls", "patch"), shard_size=3, fingerprint={}) as writer:
        report = embed_listing(embedder, ids, writer, preprocess, **{"batch_size": 2, **options})
    return report.embedded, report.quarantined


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("decoders", [1, 3])
def test_rows_stay_with_their_ids(
    embedder: Embedder, folder: Path, tmp_path: Path, batch_size: int, decoders: int
) -> None:
    counts = embed_folder(embedder, folder, tmp_path / "out", batch_size=batch_size, decoders=decoders)
    assert counts == (4, 3)
    ids, vectors = load_embeddings(tmp_path / "out")
    assert [Path(id_).stem for id_ in ids] == ["0", "2", "3", "5"]
    for id_, vector in zip(ids, vectors, strict=True):
        alone = embedder.embed([id_], imgsz=(64, 96))["cls"][0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)
    quarantined = [
        json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert [Path(row["id"]).stem for row in quarantined] == ["1", "4", "6"]
    assert all("not a picture" in row["reason"] for row in quarantined)


def test_progress_counts_every_picture(embedder: Embedder, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ids = sorted(map(str, folder.iterdir()))
    with EmbeddingWriter(
        tmp_path / "o", format="npz", outputs=("cls",), shard_size=9, fingerprint={}
    ) as writer:
        embed_listing(
            embedder,
            ids,
            writer,
            embedder.preprocess.with_size(64, 64),
            batch_size=2,
            advance=lambda done, failed: seen.append((done, failed)),
        )
    assert seen[-1] == (4, 3)
    assert seen == sorted(seen)


def test_nothing_readable_is_not_an_error_of_the_program(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    assert embed_folder(embedder, tmp_path / "in", tmp_path / "out") == (0, 1)
    ids, vectors = load_embeddings(tmp_path / "out")
    assert (ids, len(vectors)) == ([], 0)


def test_decoding_never_runs_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow engine must not fill the memory with decoded pictures."""
    decoded = 0
    lock = threading.Lock()

    def count(id_: str, preprocess: Preprocess) -> embedding.Decoded:
        nonlocal decoded
        with lock:
            decoded += 1
        return embedding.Decoded(id_, None, (1, 1))

    monkeypatch.setattr(embedding, "_decode", count)
    preprocess = Preprocess("official", 16, 16, (0.5,) * 3, (0.5,) * 3)
    stream = decode_ahead([str(i) for i in range(100)], preprocess, threads=4, ahead=6)
    for consumed in range(50):
        assert next(stream).id == str(consumed)
        assert decoded <= consumed + 1 + 6 + 1
    stream.close()


def test_an_interrupted_run_leaves_nothing(embedder: Embedder, folder: Path, tmp_path: Path) -> None:
    def interrupt(done: int, failed: int) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        EmbeddingWriter(
            tmp_path / "out", format="npy", outputs=("cls",), shard_size=1, fingerprint={}
        ) as writer,
    ):
        embed_listing(
            embedder,
            sorted(map(str, folder.iterdir())),
            writer,
            embedder.preprocess,
            batch_size=1,
            advance=interrupt,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_pictures_of_different_shapes_keep_their_rows(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, size in enumerate([(40, 20), (40, 20), (20, 40), (40, 20)]):
        Image.new("RGB", size, (index * 60, 0, 0)).save(tmp_path / "in" / f"{index}.png")
    ids = sorted(map(str, (tmp_path / "in").iterdir()))
    p = embedder.preprocess
    keep = Preprocess.from_preset("keep-aspect", (32, 32), p.mean, p.std)
    with EmbeddingWriter(
        tmp_path / "o", format="npy", outputs=("patch",), shard_size=9, fingerprint={}
    ) as writer:
        embed_listing(embedder, ids, writer, keep, batch_size=8)
    got, grids = load_embeddings(tmp_path / "o", "patch")
    assert got == ids
    assert [grid.shape[:2] for grid in grids] == [(2, 4), (2, 4), (4, 2), (2, 4)]


class TwoLanes:
    """An engine that can run two batches at once, and remembers how many did."""

    lanes = 2

    def __init__(self) -> None:
        self.together = threading.Barrier(2, timeout=20)
        self.most = self.running = 0
        self.lock = threading.Lock()

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        if pixels[0, 0, 0, 0] < 4:  # the first four wait for each other, in pairs
            self.together.wait()
        with self.lock:
            self.running -= 1
        return {"cls": pixels[:, 0, 0, :1]}


def test_as_many_batches_at_once_as_there_are_lanes() -> None:
    """Never one more, in order, and none lost."""
    backend = TwoLanes()
    embedder = Embedder.__new__(Embedder)
    embedder.backend = backend  # type: ignore[assignment]
    embedder.run = backend.run  # type: ignore[method-assign, assignment]
    batches = [[Decoded(str(i), np.full((3, 2, 2), i, np.float32), (2, 2))] for i in range(7)]
    found = [(batch[0].id, float(outputs["cls"][0, 0])) for batch, outputs in run_ahead(embedder, batches)]
    assert found == [(str(i), float(i)) for i in range(7)]
    assert backend.most == 2


def test_an_error_on_a_lane_ends_the_run(embedder: Embedder) -> None:
    batches = [[Decoded("x", np.zeros((3, side, 32), np.float32), (32, side))] for side in (32, 33, 48)]
    with pytest.raises(MisuseError, match="33x32; wanted multiples"):
        list(run_ahead(embedder, batches))
