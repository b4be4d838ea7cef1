"""`Embedder`: what it takes, what it gives, what it refuses."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder, ImageError, MisuseError
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.tiny_models import export_tiny

BATCH_LIMIT = 1e-6  # an embedding must not depend on its batch; measured 3e-7, sums cut up otherwise


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle) as opened:
        yield opened


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_run_gives_named_float32_outputs(embedder: Embedder) -> None:
    outputs = embedder.run(np.zeros((2, 3, 48, 80), np.float32))
    assert {name: value.shape for name, value in outputs.items()} == {
        "cls": (2, 128),
        "storage": (2, 4, 128),
        "patch": (2, 3, 5, 128),
        "layer_1": (2, 3, 5, 128),
    }
    assert {value.dtype for value in outputs.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 3, 50, 64), np.float32), "50x64; wanted multiples of the patch size 16"),
        (np.zeros((1, 3, 0, 64), np.float32), "0x64"),
        (np.zeros((3, 64, 64), np.float32), r"shape \[3, 64, 64\]; wanted \[B,3,H,W\]"),
        (np.zeros((1, 64, 64, 3), np.float32), r"wanted \[B,3,H,W\]"),
        (np.zeros((0, 3, 64, 64), np.float32), "B >= 1"),
        (np.zeros((1, 3, 64, 64), np.uint8), "uint8; wanted float32"),
        (np.zeros((1, 3, 64, 64), np.float64), "float64; wanted float32"),
    ],
)
def test_run_refuses_what_it_would_get_wrong(embedder: Embedder, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        embedder.run(pixels)


def test_run_takes_any_layout_in_memory(embedder: Embedder) -> None:
    pixels = np.random.default_rng(0).normal(size=(1, 64, 80, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    assert not pixels.flags.c_contiguous
    got, wanted = embedder.run(pixels)["cls"], embedder.run(pixels.copy())["cls"]
    np.testing.assert_array_equal(got, wanted)


def test_paths_images_and_arrays_are_the_same_thing(embedder: Embedder, tmp_path: Path) -> None:
    picture = photograph("chelsea")
    path = tmp_path / "chelsea.png"
    picture.save(path)
    outputs = embedder.embed([path, str(path), picture, np.asarray(picture)])
    assert outputs["cls"].shape == (4, 128)
    for row in outputs["cls"][1:]:
        assert relative(row, outputs["cls"][0]) < BATCH_LIMIT


def test_an_embedding_does_not_depend_on_its_batch(embedder: Embedder) -> None:
    pictures = [photograph(name) for name in list(PHOTOGRAPHS)[:7]]
    together = embedder.embed(pictures, batch_size=7)
    for index, picture in enumerate(pictures):
        alone = embedder.embed([picture])
        for name, values in together.items():
            assert relative(values[index], alone[name][0]) < BATCH_LIMIT, name


def test_embed_keeps_every_lane_at_work(
    tiny_bundle: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The barrier breaks where one batch waits for another to end. An image that cannot be read ends all."""
    pictures = [photograph(name) for name in list(PHOTOGRAPHS)[:6]]
    together = threading.Barrier(2, timeout=20)
    with Embedder.open(tiny_bundle, threads=2, hint="throughput") as laned:
        run = laned.backend.run
        monkeypatch.setattr(laned.backend, "run", lambda pixels: (together.wait(), run(pixels))[1])
        got = laned.embed(pictures, batch_size=1)
        monkeypatch.undo()
        (tmp_path / "broken.jpg").write_text("no image")
        with pytest.raises(ImageError, match=r"broken\.jpg"):
            laned.embed([*pictures[:4], tmp_path / "broken.jpg"], batch_size=1)
    for name, values in embedder.embed(pictures).items():
        np.testing.assert_array_equal(got[name], values)


def test_photographs_are_told_apart(embedder: Embedder) -> None:
    """Two views of one scene are closer to each other than to anything else."""
    names = list(PHOTOGRAPHS)
    vectors = embedder.embed([photograph(name) for name in names])["cls"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T - 2 * np.eye(len(names))
    left, right = names.index("motorcycle_left"), names.index("motorcycle_right")
    assert similarity[left].argmax() == right
    assert similarity[right].argmax() == left


def test_size_can_be_chosen(embedder: Embedder) -> None:
    picture = photograph("rocket")
    assert embedder.embed([picture])["patch"].shape == (1, 16, 16, 128)
    assert embedder.embed([picture], imgsz=64)["patch"].shape == (1, 4, 4, 128)
    assert embedder.embed([picture], imgsz=(64, 112))["patch"].shape == (1, 4, 7, 128)
    with pytest.raises(MisuseError, match="multiple of the patch size 16"):
        embedder.embed([picture], imgsz=100)


def test_no_images_give_empty_arrays(embedder: Embedder) -> None:
    outputs = embedder.embed([])
    assert outputs["cls"].shape == (0, 128)
    assert outputs["storage"].shape == (0, 4, 128)


def test_an_unreadable_image_is_an_image_error(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        embedder.embed([tmp_path / "broken.jpg"])


def test_keep_aspect_gives_each_image_its_own_grid(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path / "b", preset="keep-aspect", imgsz=(96, 96))
    with Embedder.open(bundle.root) as embedder:
        pictures = [Image.new("RGB", (300, 100)), photograph("coffee"), Image.new("RGB", (300, 100))]
        outputs = embedder.embed(pictures)
    assert outputs["cls"].shape == (3, 128)
    assert [grid.shape for grid in outputs["patch"]] == [(6, 18, 128), (6, 9, 128), (6, 18, 128)]


def test_threads_share_one_embedder(embedder: Embedder) -> None:
    pixels = np.random.default_rng(0).normal(size=(4, 1, 3, 64, 64)).astype(np.float32)
    wanted = [embedder.run(x)["cls"] for x in pixels]
    got: dict[int, list[np.ndarray]] = {index: [] for index in range(4)}

    def work(index: int) -> None:
        got[index] += [embedder.run(pixels[index])["cls"] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, results in got.items():
        for result in results:
            np.testing.assert_array_equal(result, wanted[index])


# ---- inside another program ------------------------------------------------------------------------


def test_after_close_it_says_so(tiny_bundle: Path) -> None:
    embedder = Embedder.open(tiny_bundle, device="cpu")
    embedder.close()
    embedder.close()
    with pytest.raises(MisuseError, match="the embedder is closed; open it again"):
        embedder.run(np.zeros((1, 3, 32, 32), np.float32))


def test_warming_up_runs_every_size(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Embedder.open(tiny_bundle, device="cpu") as embedder:
        shapes: list[tuple[int, ...]] = []
        monkeypatch.setattr(embedder.backend, "run", lambda pixels: shapes.append(pixels.shape))
        embedder.warm_up(32, (32, 48), batch_size=2)
        embedder.warm_up()
        assert shapes == [(2, 3, 32, 32), (2, 3, 32, 48), (1, 3, 256, 256)]
        with pytest.raises(MisuseError, match="height: got 33 px"):
            embedder.warm_up(33)


def test_the_engine_reads_the_callers_memory(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    with Embedder.open(tiny_bundle, device="cpu") as embedder:
        seen: list[np.ndarray] = []
        monkeypatch.setattr(embedder.backend, "run", seen.append)
        embedder.run(pixels)
    assert np.shares_memory(seen[0], pixels)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts what is open in /proc")
def test_nothing_is_left_after_close(tiny_bundle: Path) -> None:
    """Neither threads, the runtime's included, nor open files nor signal handlers."""

    def held() -> tuple[int, int, list[object]]:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        return (
            len(list(Path("/proc/self/task").iterdir())),
            len(list(Path("/proc/self/fd").iterdir())),
            handlers,
        )

    def use() -> None:
        with Embedder.open(tiny_bundle, device="cpu", threads=3) as embedder:
            embedder.embed([photograph("chelsea")], imgsz=64)

    use()  # what a runtime keeps for the whole process is kept from here on
    before = held()
    for _ in range(3):
        use()
    after = held()
    assert after[0] <= before[0]  # a thread of the first use may end later
    assert after[1:] == before[1:]
