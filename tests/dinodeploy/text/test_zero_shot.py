"""`dinodeploy.classify` and `dinodeploy.segment`: the reference's numbers, background, refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dinodeploy
from dinodeploy import MisuseError
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.text.segment import Window, class_ids, window_places
from dinodeploy.text.zero_shot import PATCH_EMBEDDING, Windowed
from tests.support.text.words import SHAPES, write_shapes

pytest.importorskip("tokenizers")
LABELS = ("a red circle", "a blue background", "a yellow star")
SMALL = {"imgsz": 64, "window": 32, "stride": 16}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "shapes"
    write_shapes(folder, SHAPES)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    found: np.ndarray = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    return found


def test_probabilities_are_those_of_the_embeddings(words_bundle: Path, shapes: Path) -> None:
    report = dinodeploy.classify(shapes, engine=words_bundle, labels=LABELS, templates="imagenet", top=3)
    rows = list(report.rows)
    assert [Path(row["id"]).name for row in rows] == sorted(SHAPES)
    assert [Path(one.id).name for one in report.quarantined] == ["broken.png"]
    assert report.counts.seen == len(SHAPES) + 1
    from dinodeploy.text.templates import IMAGENET

    with dinodeploy.Embedder.open(words_bundle) as embedder:
        images = embedder.encode([shapes / name for name in sorted(SHAPES)], output="image_embedding")
        classes = np.stack(
            [
                unit(unit(embedder.encode_text([t.format(name) for t in IMAGENET])).mean(axis=0))
                for name in LABELS
            ]
        )
        scale = embedder.manifest.text.logit_scale  # type: ignore[union-attr]
    wanted = np.exp(scale * unit(images) @ classes.T)
    wanted /= wanted.sum(axis=1, keepdims=True)
    for row, shares in zip(rows, wanted, strict=True):
        got = {one["class"]: one["probability"] for one in row["classes"]}
        assert got == pytest.approx(dict(zip(LABELS, shares.tolist(), strict=True)), abs=2e-5)
        assert [one["class"] for one in row["classes"]] == sorted(got, key=lambda name: -got[name])


def test_class_maps_are_those_of_the_windows(words_bundle: Path, shapes: Path, tmp_path: Path) -> None:
    """Off-square images: the map is at the original size, and the shape is found where it was drawn."""
    wide = Image.new("RGB", (150, 96), (45, 80, 210))
    wide.paste(Image.open(shapes / "a.png").resize((96, 96)), (54, 0))
    (tmp_path / "in").mkdir()
    wide.save(tmp_path / "in" / "wide.png")
    out = tmp_path / "out"
    report = dinodeploy.segment(
        tmp_path / "in", engine=words_bundle, labels=LABELS, templates="none", out=out, **SMALL
    )
    (row,) = report.rows
    ids = np.asarray(Image.open(out / row["mask"]))
    assert ids.shape == (96, 150)
    with dinodeploy.Embedder.open(words_bundle) as embedder:
        steps = Preprocess.from_preset("keep-aspect", (64, 64), (0.5,) * 3, (0.25,) * 3, 8)
        pixels = steps(open_image(tmp_path / "in" / "wide.png"))
        assert pixels.shape == (3, 64, 104)
        texts = unit(unit(embedder.encode_text(list(LABELS))[:, 128:]))
        windows = []
        for top, left, height, width in window_places((64, 104), 32, 16):
            part = np.ascontiguousarray(pixels[None, :, top : top + height, left : left + width])
            cosines = unit(embedder.run(part)["patch_embedding"][0]) @ texts.T
            windows.append(Window(top, left, height, width, cosines.astype(np.float32)))
    np.testing.assert_array_equal(ids, class_ids(windows, (64, 104), (96, 150)))
    shares = {name: float((ids == k).mean()) for k, name in enumerate(LABELS) if (ids == k).any()}
    assert row["shares"] == pytest.approx(shares)
    circle = np.argwhere(ids == 0)
    assert 0.05 < (ids == 0).mean() < 0.5
    assert circle[:, 1].mean() > 75, "the circle is in the right half"
    assert (out / row["overlay"]).is_file()


def test_pixels_without_a_near_label_are_background(words_bundle: Path, shapes: Path, tmp_path: Path) -> None:
    options = {"engine": words_bundle, "labels": LABELS, "templates": "none", **SMALL}
    (row,) = dinodeploy.segment(
        shapes / "a.png", out=tmp_path, min_cosine=0.25, overwrite=True, **options
    ).rows
    ids = np.asarray(Image.open(tmp_path / row["mask"]))
    assert 0 < (ids == 255).mean() < 1
    assert sum(row["shares"].values()) == pytest.approx((ids != 255).mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "got 0 labels"),
        ({"labels": "none.txt"}, r"none\.txt: no such file; wanted a text file"),
        ({"labels": [f"l{n}" for n in range(256)]}, "256 labels; wanted at most 255"),
        ({"min_cosine": 2.0}, "--min-cosine is 2; wanted"),
        ({"window": 30}, "--window is 30; wanted a multiple of the patch size 8"),
        ({"templates": "words"}, "--templates words: not a file"),
        ({"thread": 1}, "unknown option thread; wanted some of"),
    ],
)
def test_options_that_do_not_fit(
    words_bundle: Path, shapes: Path, options: dict[str, object], message: str
) -> None:
    given: dict[str, object] = {"labels": LABELS, **SMALL, **options}
    with pytest.raises(MisuseError, match=message):
        dinodeploy.segment(shapes, engine=words_bundle, **given)  # type: ignore[arg-type]


def test_a_bundle_without_texts_is_refused(tiny_bundle: Path, shapes: Path) -> None:
    for call in (dinodeploy.classify, dinodeploy.segment):
        with pytest.raises(MisuseError, match=r"has no text graph; export a dino\.txt model"):
            call(shapes, engine=tiny_bundle, labels=LABELS)  # type: ignore[operator]


def test_windows_of_bytes_are_those_of_floats() -> None:
    """Off-square: a window that took the wrong axes would have another size."""
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    seen: dict[str, list[np.ndarray]] = {"uint8": [], "float32": []}

    def run(part: np.ndarray, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        assert part.flags.c_contiguous
        seen[part.dtype.name].append(part if part.dtype == np.uint8 else part.transpose(0, 2, 3, 1))
        return {PATCH_EMBEDDING: np.ones((len(part), 2, 2, 3), np.float32)}

    engine: Any = SimpleNamespace(run=run)
    windowed = Windowed(engine, np.eye(3, dtype=np.float32), side=16, stride=16)
    of_bytes = windowed.run(grey)
    of_floats = windowed.run(np.ascontiguousarray(grey.transpose(0, 3, 1, 2), np.float32))
    assert of_bytes["windows"].shape == of_floats["windows"].shape == (2, 6, 2, 2, 3)
    for one, other in zip(seen["uint8"], seen["float32"], strict=True):
        np.testing.assert_array_equal(one, other)
