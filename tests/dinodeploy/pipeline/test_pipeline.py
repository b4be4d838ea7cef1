"""Embedding a source: rows, ids and reasons stay together whatever fails, and memory stays flat."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder, UnavailableError, load_embeddings
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pipeline import embed_source
from dinodeploy.sources import FileSource
from dinodeploy.store.writer import Store
from tests.support.fake_engine import HALF, SMALL, MadeUp, embed_all, embedder, engine, tree
from tests.support.images.photographs import photograph
from tests.support.stores import make_plan


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven files, of which the second, fifth and last are no images."""
    (tmp_path / "in").mkdir()
    for index, name in enumerate(["astronaut", "", "chelsea", "coffee", "", "rocket", ""]):
        path = tmp_path / "in" / f"{index}.jpg"
        if name:
            photograph(name).save(path)
        else:
            path.write_bytes(b"no picture")
    return tmp_path / "in"


def reasons(out: Path) -> dict[str, str]:
    lines = (out / "quarantine.jsonl").read_text().splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_rows_stay_with_their_ids(
    tiny: Embedder, folder: Path, tmp_path: Path, batch: int, workers: int
) -> None:
    source = FileSource(sorted(map(str, folder.iterdir())))
    steps = tiny.preprocess.with_size(64, 96)
    report, _ = embed_all(
        source,
        tmp_path / "out",
        engine=tiny,
        preprocess=steps,
        batch=batch,
        shard_size=3,
        outputs=("cls", "patch", "pooled"),
        run={"workers": workers},
    )
    assert (report.embedded, report.quarantined) == (4, 3)
    ids, vectors = load_embeddings(tmp_path / "out")
    assert [Path(id_).stem for id_ in ids] == ["0", "2", "3", "5"]
    pooled = load_embeddings(tmp_path / "out", "pooled")[1]
    for row, id_ in enumerate(ids):
        alone = tiny.embed([id_], imgsz=(64, 96))
        np.testing.assert_allclose(vectors[row], alone["cls"][0], atol=1e-5)
        np.testing.assert_allclose(pooled[row][:128], alone["cls"][0], atol=1e-5)
        np.testing.assert_allclose(pooled[row][128:], alone["patch"][0].mean((0, 1)), atol=1e-5)
    found = reasons(tmp_path / "out")
    assert [Path(id_).stem for id_ in found] == ["1", "4", "6"]
    assert all("not an image" in reason for reason in found.values())


def test_workers_and_batches_change_no_byte(tmp_path: Path) -> None:
    """Nor do parallel sessions, or how fast what is."""
    embed_all(MadeUp(30, bad=[2, 13]), tmp_path / "a")
    for name, options in {
        "b": {"batch": 1, "run": {"workers": 1}},
        "c": {"batch": 8, "run": {"workers": 5}},
        "d": {"engine": embedder(parallel_runs=3)},
    }.items():
        embed_all(MadeUp(30, bad=[2, 13]), tmp_path / name, **options)
        assert tree(tmp_path / name) == tree(tmp_path / "a"), name


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    bottlenecks: set[str] = set()

    def advance(done: int, failed: int, bottleneck: str) -> None:
        seen.append((done, failed))
        bottlenecks.add(bottleneck)

    embed_all(MadeUp(30, bad=[0, 7, 29]), tmp_path / "out", run={"advance": advance})
    assert seen[-1] == (27, 3)
    assert seen == sorted(seen)
    assert bottlenecks <= {"decode", "engine", "write"}


def test_nothing_readable_is_not_an_error_of_the_program(tmp_path: Path) -> None:
    report, manifest = embed_all(MadeUp(5, bad=range(5)), tmp_path / "out")
    assert manifest is not None
    assert (report.embedded, report.quarantined, manifest.count) == (0, 5, 0)
    ids, vectors = load_embeddings(tmp_path / "out")
    assert (ids, len(vectors)) == ([], 0)


def test_an_interrupted_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, failed: int, bottleneck: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_all(MadeUp(30), tmp_path / "out", run={"advance": interrupt})
    assert list(tmp_path.iterdir()) == []


def test_images_of_different_shapes_keep_their_rows(tmp_path: Path) -> None:
    """Buckets finish out of order; rows do not."""
    sides = [(40, 20), (40, 20), (20, 40), (40, 20), (100, 20), (20, 40)] * 3
    keep = Preprocess.from_preset("keep-aspect", (32, 32), HALF, HALF)
    source = MadeUp(len(sides), size=lambda index: sides[index])
    embed_all(source, tmp_path / "out", preprocess=keep, shard_size=7)
    ids, grids = load_embeddings(tmp_path / "out", "patch")
    assert ids == source.ids
    wanted = {(40, 20): (2, 4), (20, 40): (4, 2), (100, 20): (2, 10)}
    assert [grid.shape[:2] for grid in grids] == [wanted[side] for side in sides]
    red = [round((float(grid[0, 0, 0]) + 1) / 2 * 255) for grid in grids]
    assert red == list(range(len(sides)))


def test_images_shrink_to_max_patches() -> None:
    keep = Preprocess("keep-aspect", 64, 64, HALF, HALF, max_patches=12)
    assert keep.target_size(640, 480) == (48, 64)  # 3 x 4 of 16: 12; not 4 x 5
    assert keep.target_size(20_000, 3) == (16, 12 * 16)
    assert keep.target_size(480, 640) == (64, 48)


def test_a_row_that_is_not_finite_is_quarantined(tmp_path: Path) -> None:
    def run(pixels: Any) -> dict[str, Any]:
        outputs = engine(pixels)
        outputs["cls"][np.round((pixels[:, 0, 0, 0] + 1) / 2 * 255) == 5] = np.nan
        return outputs

    report, _ = embed_all(MadeUp(9), tmp_path / "out", engine=embedder(run))
    assert (report.embedded, report.quarantined) == (8, 1)
    assert reasons(tmp_path / "out") == {
        "000005.png": "the engine's output 'cls' is not finite for this image"
    }


def test_an_output_buffer_may_be_used_again(tmp_path: Path) -> None:
    """As engines on a GPU do."""
    buffers = {"cls": np.zeros((3, 3), np.float32), "patch": np.zeros((3, 1, 2, 3), np.float32)}

    def run(pixels: Any) -> dict[str, Any]:
        for name, values in engine(pixels).items():
            buffers[name][: len(pixels)] = values
        return {name: buffer[: len(pixels)].copy() for name, buffer in buffers.items()}

    embed_all(MadeUp(30), tmp_path / "a", engine=embedder(run))
    embed_all(MadeUp(30), tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


# ---- images as they come ---------------------------------------------------------------------


def _bad_and_odd(folder: Path) -> dict[str, str]:
    """One of every kind that breaks programs: file name -> what its reason says, nothing if it is legal."""
    good = photograph("chelsea").resize((90, 60))
    good.save(folder / "plain.jpg", quality=95)
    jpeg = (folder / "plain.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "corrupt.jpg").write_bytes(jpeg[:30] + bytes(range(256)) * 8)
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "one.jpg").write_bytes(b"\xff")
    (folder / "text.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    good.save(folder / "png.png")
    (folder / "png.png").rename(folder / "wrongly-named.jpg")
    frames = [Image.new("P", (40, 30), colour) for colour in (10, 200)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(folder / "16-bit.png")
    good.convert("CMYK").save(folder / "cmyk.jpg")
    good.convert("P").save(folder / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    good.save(folder / "rotated.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(folder / "1x1.png")
    Image.new("RGB", (20_000, 3), "blue").save(folder / "20000x3.png")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "directory.jpg").mkdir()
    (folder / "broken-link.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    os.mkfifo(folder / "fifo.jpg")
    (folder / "zero-device.jpg").symlink_to("/dev/zero")
    return {
        "truncated.jpg": "truncated",
        "corrupt.jpg": "cannot be decoded",
        "zero.jpg": "the file is empty",
        "one.jpg": "not an image",
        "text.jpg": "not an image",
        "bomb.png": "20000x20000 pixels, wanted at most",
        "directory.jpg": "not a regular file",
        "broken-link.jpg": "No such file",
        "loop.jpg": "symbolic links",
        "fifo.jpg": "not a regular file",
        "zero-device.jpg": "not a regular file",
    } | dict.fromkeys(
        [
            "plain.jpg",
            "wrongly-named.jpg",
            "animated.gif",
            "16-bit.png",
            "cmyk.jpg",
            "palette.png",
            "rotated.jpg",
            "1x1.png",
            "20000x3.png",
        ],
        "",
    )


@pytest.mark.parametrize("preset", ["official", "keep-aspect"])
def test_every_kind_of_image_is_embedded_or_has_a_reason(tmp_path: Path, preset: str) -> None:
    (tmp_path / "in").mkdir()
    wanted = _bad_and_odd(tmp_path / "in")
    source = FileSource([str(path) for path in sorted((tmp_path / "in").iterdir())])
    assert len(source.ids) == len(wanted)
    steps = Preprocess.from_preset(preset, (32, 32), HALF, HALF)
    embed_all(source, tmp_path / "out", preprocess=steps, run={"time_limit": 60})
    found = {Path(id_).name: reason for id_, reason in reasons(tmp_path / "out").items()}
    assert sorted(found) == sorted(name for name, reason in wanted.items() if reason)
    for name, reason in found.items():
        assert wanted[name] in reason, (name, reason)
    ids = [Path(id_).name for id_ in load_embeddings(tmp_path / "out")[0]]
    assert ids == sorted(name for name, reason in wanted.items() if not reason)


def test_a_folder_that_vanishes_stops_the_run(folder: Path, tmp_path: Path) -> None:
    """And does not quarantine whatever was in it; brought back, the run resumes."""
    source = FileSource([str(folder / f"{index}.jpg") for index in (0, 2, 3, 5) for _ in range(8)])
    away = tmp_path / "away"
    runs = 0

    def run(pixels: Any) -> dict[str, Any]:
        nonlocal runs
        runs += 1
        if runs == 3:
            shutil.move(folder, away)
        return engine(pixels)

    with pytest.raises(UnavailableError, match=r"in disappeared while its images were read; restore it"):
        embed_all(source, tmp_path / "out", engine=embedder(run))
    shutil.move(away, folder)
    _, manifest = embed_all(source, tmp_path / "out")
    assert manifest is not None
    assert (manifest.count, manifest.quarantined) == (32, 0)


def test_an_unmounted_folder_is_empty_and_stops_the_run(folder: Path, tmp_path: Path) -> None:
    source = FileSource([str(folder / "0.jpg")] * 40)

    def run(pixels: Any) -> dict[str, Any]:
        for path in folder.iterdir():
            path.unlink()
        return engine(pixels)

    with pytest.raises(UnavailableError, match="disappeared"):
        embed_all(source, tmp_path / "out", engine=embedder(run))


# ---- memory and time ---------------------------------------------------------------------------


def peak_of(work: Callable[[], Any]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_listing(tmp_path: Path) -> None:
    """What grows is a listing of ids and a line a shard; no image and no row is kept."""

    class Many(MadeUp):
        def image(self, index: int) -> Any:
            return IMAGE

    def run(count: int) -> int:
        source = Many(count)
        options = {"shard_size": 100, "batch": 8, "outputs": ("cls",)}
        return peak_of(lambda: embed_all(source, tmp_path / str(count), **options))

    run(500)  # what is imported and cached the first time
    few, many = run(1000), run(6000)
    # measured: 0.2 MB of chance, by what is under way at the peak; 2.6 MB if rows are kept
    assert many - few < 1_000_000, f"{few} bytes for 1,000 images, {many} for 6,000"


IMAGE = Image.new("RGB", (32, 16), "red")


def test_stages_add_up_to_the_run(tmp_path: Path) -> None:
    report, _ = embed_all(MadeUp(30), tmp_path / "out")
    told = report.stages.report()
    assert list(told) == ["decode", "engine", "write"]
    assert sum(stage["waited"] for stage in told.values()) <= report.seconds + 0.01
    assert abs(sum(report.stages.shares.values()) - 1) < 0.01
    assert str(report.stages).startswith("waited for decode ")


def test_a_slow_stage_is_the_bottleneck(tmp_path: Path) -> None:
    class Slow(MadeUp):
        def image(self, index: int) -> Any:
            time.sleep(0.02)
            return super().image(index)

    def slow(pixels: Any) -> dict[str, Any]:
        time.sleep(0.05)
        return engine(pixels)

    report, _ = embed_all(Slow(16), tmp_path / "a", shard_size=16)
    assert report.stages.bottleneck == "decode"
    report, _ = embed_all(MadeUp(16), tmp_path / "b", engine=embedder(slow), shard_size=16)
    assert report.stages.bottleneck == "engine"


def test_the_store_decides_what_is_left_to_do(tmp_path: Path) -> None:
    source = MadeUp(10)
    with Store(tmp_path / "out", make_plan(source.ids, shard_size=4)) as store:
        assert store.remaining == [0, 1, 2]
        embed_source(embedder(), source, store, SMALL)
        assert store.remaining == []
        assert store.finish() is not None
