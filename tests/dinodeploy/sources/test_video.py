"""Frames of real videos made here: times as ids, any order, rotation, files that break off."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import ImageError
from dinodeploy.images import open_image
from dinodeploy.sources import Source, SourceOptions, open_source
from tests.photographs import photograph

FRAMES, RATE = 40, 25


def write_video(path: Path, frames: int = FRAMES) -> None:
    """A photograph that gets brighter by 4 levels a frame, a key frame every 10."""
    picture = np.asarray(photograph("chelsea").convert("RGB").resize((96, 64)), np.int32) // 2
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", 10
        stream.bit_rate = 4_000_000
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray((picture + 3 * index).clip(0, 255).astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def brightness(source: Source, index: int) -> float:
    return float(np.asarray(open_image(source.picture(index))).mean())


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_video(Path("clip.mp4"))
    return Path("clip.mp4")


def test_ids_are_times(clip: Path) -> None:
    ids = list(open_source([clip]).ids)
    assert len(ids) == FRAMES
    assert ids[:3] == ["clip.mp4#t=0.000", "clip.mp4#t=0.040", "clip.mp4#t=0.080"]
    every = open_source([clip], SourceOptions(every=7))
    assert list(every.ids) == ids[::7]


def test_each_frame_is_its_own_in_any_order(clip: Path) -> None:
    source = open_source([clip], SourceOptions(every=3))
    straight = [brightness(source, index) for index in range(len(source.ids))]
    np.testing.assert_allclose(np.diff(straight), 9, atol=2)
    order = list(range(len(source.ids))) * 3
    random.Random(1).shuffle(order)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: brightness(source, index), order))
    np.testing.assert_allclose(found, [straight[index] for index in order])
    source.close()


def test_a_picture_is_rgb(clip: Path) -> None:
    picture = open_source([clip]).picture(3)
    assert isinstance(picture, Image.Image)
    assert open_image(picture).size == (96, 64)


def test_a_video_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be decoded is; the rest, or the file as a whole, is quarantined."""
    monkeypatch.chdir(tmp_path)
    write_video(Path("clip.avi"))
    Path("half.avi").write_bytes(Path("clip.avi").read_bytes()[: Path("clip.avi").stat().st_size // 2])
    Path("words.mp4").write_text("words" * 100)
    whole, half = open_source(["clip.avi"]), open_source(["half.avi"])
    assert len(whole.ids) == FRAMES
    assert 5 < len(half.ids) < FRAMES
    assert brightness(half, 4) == brightness(whole, 4)
    words = open_source(["words.mp4"])
    assert list(words.ids) == ["words.mp4#video"]
    with pytest.raises(ImageError, match="not a video that can be read"):
        words.picture(0)
