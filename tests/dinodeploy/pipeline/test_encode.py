"""`Embedder.encode` and `stream`: what they take, give, skip and refuse."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy import Embedder, ImageError, MisuseError
from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.tiny_models import export_tiny

NAMES = list(PHOTOGRAPHS)[:6]
D = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        photograph(name).resize((150, 100)).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[Path]:
    return [folder / f"{name}.png" for name in NAMES]


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle, device="onnxruntime") as opened:
        yield opened


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken.jpg").write_text("not an image")
    return tmp_path / "broken.jpg"


# ---- what it takes and gives ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        ("cls", (D,)),
        ("mean_patch", (D,)),
        ("pooled", (2 * D,)),
        ("storage", (4, D)),
        ("patch", (4, 6, D)),
        ("layer_1", (4, 6, D)),
    ],
)
def test_every_output_has_its_shape(
    embedder: Embedder, paths: list[Path], output: str, shape: tuple[int, ...]
) -> None:
    size = (64, 96)
    one = embedder.encode(paths[0], output=output, imgsz=size)
    assert isinstance(one, np.ndarray)
    assert (one.shape, one.dtype) == (shape, np.float32)
    many = embedder.encode(paths, output=output, imgsz=size)
    assert isinstance(many, np.ndarray)
    assert (many.shape, many.dtype) == ((len(paths), *shape), np.float32)
    np.testing.assert_array_equal(many[0], one)
    assert embedder.encode(paths[:1], output=output, imgsz=size).shape == (1, *shape)  # type: ignore[union-attr]
    assert embedder.encode([], output=output).shape[0] == 0  # type: ignore[union-attr]
    streamed = list(embedder.stream(paths, output=output, imgsz=size))
    assert [index for index, _ in streamed] == list(range(len(paths)))
    np.testing.assert_array_equal(np.stack([row for _, row in streamed]), many)


def test_no_images_give_no_rows(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, D)
    assert embedder.encode((), output="pooled").shape == (0, 2 * D)
    assert list(embedder.stream([])) == []


def test_an_image_may_be_anything(embedder: Embedder, paths: list[Path]) -> None:
    path = paths[0]
    content, picture = path.read_bytes(), Image.open(path)
    pixels = np.asarray(picture)
    given: list[Any] = [path, str(path), content, io.BytesIO(content), picture, pixels, f"file://{path}"]
    wanted = embedder.encode(path)
    for image in given:
        np.testing.assert_array_equal(embedder.encode(image), wanted)
        if hasattr(image, "seek"):
            image.seek(0)
    for row in embedder.encode(given):
        np.testing.assert_array_equal(row, wanted)
    with path.open("rb") as file:
        np.testing.assert_array_equal(embedder.encode(file), wanted)


def test_channels_of_arrays(embedder: Embedder, paths: list[Path]) -> None:
    """OpenCV's frames are BGR, with alpha BGRA. Files say themselves what they are."""
    rgb = np.asarray(Image.open(paths[0]))
    alpha = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    wanted = embedder.encode(paths[0])
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    for frame in (bgr, np.concatenate([bgr, alpha], axis=2), paths[0]):
        np.testing.assert_array_equal(embedder.encode(frame, channels="bgr"), wanted)
    assert (embedder.encode(bgr) != wanted).any()
    grey = np.ascontiguousarray(rgb[..., 0])
    np.testing.assert_array_equal(embedder.encode(grey, channels="bgr"), embedder.encode(grey))


def test_many_images_may_be_a_generator_or_one_array(embedder: Embedder, paths: list[Path]) -> None:
    frames = np.stack([np.asarray(Image.open(path)) for path in paths])
    wanted = embedder.encode(paths)
    np.testing.assert_array_equal(embedder.encode(frames), wanted)
    np.testing.assert_array_equal(embedder.encode(path for path in paths), wanted)
    np.testing.assert_array_equal(embedder.encode(tuple(paths), batch_size=2), wanted)


def test_normalize(embedder: Embedder, paths: list[Path]) -> None:
    raw, unit = embedder.encode(paths), embedder.encode(paths, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6)
    patch = embedder.encode(paths[0], output="patch", normalize=True)
    assert isinstance(patch, np.ndarray)
    np.testing.assert_allclose(np.linalg.norm(patch, axis=-1), 1, atol=1e-6)


def test_keep_aspect_gives_each_image_its_grid(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path / "b", preset="keep-aspect", imgsz=(96, 96))
    wide, square = Image.new("RGB", (300, 100)), Image.new("RGB", (100, 100), "red")
    with Embedder.open(bundle.root) as embedder:
        patches = embedder.encode([wide, square, wide], output="patch")
        assert isinstance(patches, list)
        assert [patch.shape for patch in patches] == [(6, 18, D), (6, 6, D), (6, 18, D)]
        np.testing.assert_array_equal(patches[1], embedder.encode(square, output="patch"))
        assert isinstance(embedder.encode([wide, wide], output="patch"), np.ndarray)
        cls = embedder.encode([wide, square, wide])
        assert cls.shape == (3, D)
        for (index, row), wanted in zip(embedder.stream([wide, square, wide]), cls, strict=True):
            np.testing.assert_array_equal(row, wanted, str(index))


# ---- images that cannot be read ------------------------------------------------------------------


def test_an_error_names_the_image(embedder: Embedder, paths: list[Path], broken: Path) -> None:
    with pytest.raises(ImageError, match=r"^'.*broken\.jpg': not "):
        embedder.encode(broken)
    with pytest.raises(ImageError, match=r"^image number 2: '.*broken\.jpg': not "):
        embedder.encode([*paths[:2], broken, *paths])
    seen = []
    with pytest.raises(ImageError, match=r"^image number 2: "):
        seen += [index for index, _ in embedder.stream([*paths[:2], broken, *paths[2:]], batch_size=2)]
    with pytest.raises(ImageError, match="got int, wanted a path"):
        embedder.encode([paths[0], 3])  # type: ignore[list-item]
    with pytest.raises(ImageError, match="array: got float32"):
        embedder.encode(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ImageError, match=r"read\(\) gave str, wanted bytes"):
        embedder.encode(io.StringIO("text"))  # type: ignore[arg-type]


def test_skip_leaves_rows_out_and_reports_them(embedder: Embedder, paths: list[Path], broken: Path) -> None:
    given = [broken, *paths[:3], broken, paths[3]]
    with pytest.warns(
        UserWarning, match=r"^2 of 6 images have no row \(see Embedder.skipped\); .* number 0: "
    ):
        rows = embedder.encode(given, on_error="skip")
    np.testing.assert_array_equal(rows, embedder.encode(paths[:4]))
    assert embedder.skipped == [], "of the last call"
    with pytest.warns(UserWarning, match="have no row"):
        embedder.encode(given, on_error="skip")
    assert [index for index, _ in embedder.skipped] == [0, 4]
    assert "broken.jpg" in embedder.skipped[0].reason
    with pytest.warns(UserWarning, match="have no row"):
        assert embedder.encode([broken], on_error="skip").shape == (0, D)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.encode(paths[:2], on_error="skip")
        streamed = list(embedder.stream(given, on_error="skip", batch_size=2))
    assert [index for index, _ in streamed] == [1, 2, 3, 5]
    assert [index for index, _ in embedder.skipped] == [0, 4]


@pytest.mark.parametrize(("output", "shape"), [("cls", (D,)), ("pooled", (2 * D,)), ("patch", (4, 4, D))])
def test_nan_keeps_the_place(
    embedder: Embedder, paths: list[Path], broken: Path, output: str, shape: tuple[int, ...]
) -> None:
    rows = embedder.encode([paths[0], broken, paths[1]], output=output, imgsz=64, on_error="nan")
    assert isinstance(rows, np.ndarray)
    assert rows.shape == (3, *shape)
    assert np.isnan(rows[1]).all()
    assert np.isfinite(rows[[0, 2]]).all()
    assert [index for index, _ in embedder.skipped] == [1]
    one = embedder.encode(broken, output=output, imgsz=64, on_error="nan")
    assert isinstance(one, np.ndarray)
    assert one.shape == shape
    streamed = dict(embedder.stream([broken, paths[0]], output=output, imgsz=64, on_error="nan"))
    assert [bool(np.isnan(streamed[index]).all()) for index in (0, 1)] == [True, False]


def test_each_thread_has_its_own_report(embedder: Embedder, paths: list[Path], broken: Path) -> None:
    embedder.encode([broken, paths[0]], on_error="nan")
    other: list[Any] = []

    def work() -> None:
        embedder.encode(paths[:2], on_error="nan")
        other.append(embedder.skipped)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert other == [[]]
    assert len(embedder.skipped) == 1


# ---- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"output": "logits"},
            "output 'logits' is unknown; .* has cls, storage, patch, layer_1, mean_patch, po",
        ),
        ({"on_error": "ignore"}, "on_error is 'ignore'; wanted raise or skip or nan"),
        ({"channels": "gbr"}, "channels is 'gbr'; wanted rgb or bgr"),
        ({"batch_size": 0}, "batch_size is 0; wanted at least 1"),
        ({"imgsz": 50}, "multiple of the patch size 16"),
    ],
)
def test_misuse_is_one_clear_error(
    embedder: Embedder, paths: list[Path], options: dict[str, Any], message: str
) -> None:
    for call in (
        lambda: embedder.encode(paths[0], **options),
        lambda: embedder.encode(paths, **options),
        lambda: embedder.stream(paths, **options),
    ):
        with pytest.raises(MisuseError, match=message):
            call()


def test_misuse_of_one_image(embedder: Embedder, paths: list[Path]) -> None:
    with pytest.raises(MisuseError, match="'skip' needs several images"):
        embedder.encode(paths[0], on_error="skip")
    with pytest.raises(MisuseError, match="stream wants an iterable of images"):
        embedder.stream(str(paths[0]))


# ---- memory, threads, processes ------------------------------------------------------------------


def test_a_stream_reads_no_further_ahead_than_it_says(embedder: Embedder) -> None:
    """Endless iterables work, and what is read ahead is bounded."""
    from dinodeploy.pipeline.decode import default_decoders

    taken = 0

    def camera() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal taken
        while True:
            taken += 1
            yield np.full((16, 16, 3), taken % 256, np.uint8)

    stream = embedder.stream(camera(), imgsz=32, batch_size=2)
    for _ in range(50):
        index, row = next(stream)
        assert taken - index <= 2 * max(2, default_decoders()) + 3 * 2
    assert index == 49
    assert row.shape == (D,)
    stream.close()  # type: ignore[attr-defined]


def test_parallel_sessions_give_the_same_numbers(
    tiny_bundle: Path, embedder: Embedder, paths: list[Path]
) -> None:
    with Embedder.open(tiny_bundle, device="onnxruntime", threads=2, hint="throughput") as parallel:
        np.testing.assert_array_equal(parallel.encode(paths, batch_size=1), embedder.encode(paths))


def test_cls_runs_the_cls_only_graph(tiny_bundle: Path, paths: list[Path]) -> None:
    with (
        Embedder.open(tiny_bundle, device="onnxruntime") as whole,
        Embedder.open(tiny_bundle, device="onnxruntime", outputs=("cls",)) as small,
    ):
        np.testing.assert_array_equal(whole.encode(paths), small.encode(paths))
        assert whole.output_names == ("cls", "storage", "patch", "layer_1")
        with pytest.raises(MisuseError, match=r"'patch' is unknown; .* has cls$"):
            small.encode(paths, output="patch")
    with pytest.raises(MisuseError, match="the embedder is closed; open it again"):
        whole.encode(paths)


def test_an_embedder_pickles(tiny_bundle: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_bundle.parent)
    with Embedder.open(tiny_bundle.name, device="onnxruntime", outputs=("cls",), threads=1) as embedder:
        content = pickle.dumps(embedder)
        wanted = embedder.encode(paths)
    assert len(content) < 1000
    monkeypatch.chdir("/")
    with pickle.loads(content) as again:
        assert again.output_names == ("cls",)
        np.testing.assert_array_equal(again.encode(paths), wanted)
    with pytest.raises(MisuseError, match="closed"):
        pickle.dumps(embedder)


@pytest.mark.slow
def test_an_embedder_goes_to_a_spawned_worker(tiny_bundle: Path, paths: list[Path]) -> None:
    with (
        Embedder.open(tiny_bundle, device="onnxruntime") as embedder,
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        row = pool.apply(embedder.encode, (str(paths[0]),))
        np.testing.assert_array_equal(row, embedder.encode(paths[0]))


def test_its_repr_shows_model_device_and_outputs(tiny_bundle: Path) -> None:
    embedder = Embedder.open(tiny_bundle, device="onnxruntime")
    assert repr(embedder).startswith(f"<Embedder {tiny_bundle}: custom fp32 on cpu: ")
    assert repr(embedder).endswith(", outputs cls, storage, patch, layer_1>")
    embedder.close()
    assert repr(embedder).endswith(", closed>")
