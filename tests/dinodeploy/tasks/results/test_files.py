"""The image files of a prediction: which are written, and under which names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.sources import FileSource
from dinodeploy.tasks.prediction import Prediction, Region
from dinodeploy.tasks.results.draw import Legend
from dinodeploy.tasks.results.files import WRITTEN, Frame, ImageWriter, ReadAgain, parse_save

MAPS = {
    "segment": np.array([[0, 0, 1, 255], [0, 0, 1, 255]]),
    "depth": np.full((2, 4), 2, np.float32),
    "instance": np.array([[0, 0, 1, 1], [0, 0, 1, 1]]),
}
NAMES = {"segment": ["mask"], "depth": ["depth"], "instance": ["segments"], "detect": [], "classify": []}


def writer(path: Path, **options: Any) -> ImageWriter:
    return ImageWriter(ReadAgain(FileSource([str(path)])), Legend(("cat", "cup")), **options)


@pytest.mark.parametrize("task", NAMES)
def test_maps_and_overlays_are_written(task: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), "red").save(tmp_path / "a.png")
    regions = (Region(0, "cat", 1.0, (0, 0, 2, 2)),) if task in ("detect", "instance") else ()
    found = Prediction(task, {}, MAPS.get(task), regions)
    (tmp_path / "out").mkdir()
    names = writer(tmp_path / "a.png").write(tmp_path / "out", 0, "a.png", found)
    assert sorted(names) == sorted([*NAMES[task], *(["overlay"] if task != "classify" else [])])
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names.values())
    assert all(name.startswith("000001_a_") and WRITTEN.fullmatch(name) for name in names.values())
    if task == "segment":
        with Image.open(tmp_path / "out" / names["mask"]) as mask:
            assert (np.asarray(mask) == MAPS[task]).all()
    if task == "depth":
        with Image.open(tmp_path / "out" / names["depth"]) as depth:
            assert (np.asarray(depth) == 2000).all()


def test_what_is_saved_can_be_chosen(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), "red").save(tmp_path / "a.png")
    found = Prediction("segment", {}, MAPS["segment"])
    for save, kinds in ((("maps",), ["mask"]), (("overlays",), ["overlay"]), (("none",), [])):
        chosen = writer(tmp_path / "a.png", save=parse_save(save))
        assert list(chosen.write(tmp_path, 0, "a.png", found)) == kinds
    video = writer(tmp_path / "a.png")
    assert list(video.write(tmp_path, 0, "clip.mp4#t=0.040", found)) == ["overlay"]
    with pytest.raises(MisuseError, match="--save 'masks' is unknown; wanted maps, overlays, or none"):
        parse_save(["masks"])


def test_names_that_are_long_reserved_or_not_utf_8(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"caf\xe9.jpg"), "y" * 240 + ".jpg", "aux.jpg", "a:b?.jpg"):
        Image.new("RGB", (4, 2), "red").save(tmp_path / name, "JPEG")
        found = Prediction("segment", {}, MAPS["segment"])
        names = writer(tmp_path / name).write(tmp_path, 0, str(tmp_path / name), found)
        for one in names.values():
            assert (tmp_path / one).is_file()
            assert len(one.encode()) < 143
            assert not set(one) & set('<>:"|?*')


def test_a_photograph_is_drawn_upright(tmp_path: Path) -> None:
    """Orientation 6: stored 4x2, shown 2x4."""
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    found = Prediction("segment", {}, MAPS["segment"].T)
    names = writer(tmp_path / "a.jpg").write(tmp_path, 0, "a.jpg", found)
    with Image.open(tmp_path / names["overlay"]) as overlay:
        assert overlay.size == (2, 4)


def test_what_is_costly_to_read_is_read_once() -> None:
    class Counting:
        ids = ("clip.mp4#t=0.000",)
        reads = 0

        def image(self, index: int) -> Image.Image:
            self.reads += 1
            return Image.new("RGB", (1, 1))

        def close(self) -> None: ...

    source = Counting()
    again = ReadAgain(source)
    first = again.image(0)
    assert again.again(0) is first
    assert source.reads == 1
    again.again(0)
    assert source.reads == 2, "it is kept until it is asked for again"


def test_frames_know_their_video() -> None:
    assert Frame.of("a/clip.mp4#t=12.480") == Frame("a/clip.mp4", 12480)
    assert Frame.of("a/clip.mp4#rest") is None
    assert Frame.of("photo.jpg") is None
