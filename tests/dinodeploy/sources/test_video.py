"""Videos: the right frame for every id, from several threads in any order."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.sources import SourceOptions, open_source
from tests.dinodeploy.sources.reading import Pixels, read_all, read_by_threads
from tests.support.images.video_files import HEIGHT, WIDTH, frame_pixels, write_video

av = pytest.importorskip("av")


def numbers(seen: list[Pixels | str]) -> list[int]:
    """The frame number that each image shows."""
    frames = np.stack([frame_pixels(number).astype(int) for number in range(40)])
    assert all(isinstance(one, np.ndarray) for one in seen), seen
    differences = [np.abs(frames - one).mean(axis=(1, 2, 3)) for one in seen]  # type: ignore[operator]
    assert (
        max(difference.min() for difference in differences) < 6
    )  # 2.6 to 4.4 measured, a neighbour is at 11
    return [int(difference.argmin()) for difference in differences]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"codec": "libx264", "b_frames": 2}),
        ("a.ts", {"codec": "libx264", "b_frames": 2}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.mkv", {"codec": "ffv1"}),
        ("a.avi", {"b_frames": 2}),
        ("a.mov", {"gop": 1}),
    ],
)
def test_every_frame_is_the_one_its_id_says(name: str, options: dict[str, Any]) -> None:
    if options.get("codec", "mpeg4") not in av.codecs_available:
        pytest.skip(f"this PyAV has no {options['codec']}")
    write_video(Path(name), **options)
    source = open_source([name])
    assert list(source.ids) == [f"{name}#t={number / 25:.3f}" for number in range(40)]
    assert numbers(list(read_all(name).values())) == list(range(40))
    assert numbers(read_by_threads(source)) == list(range(40))
    source.close()
    every = open_source([name], SourceOptions(every=7))
    assert list(every.ids) == [f"{name}#t={number / 25:.3f}" for number in range(0, 40, 7)]
    assert numbers(read_by_threads(every)) == list(range(0, 40, 7))
    assert numbers(list(read_all(name, every=100).values())) == [0]
    every.close()


def test_variable_frame_rate() -> None:
    times = [0, 10, 20, 500, 1000, 1001, 1002, *(2000 + 33 * number for number in range(33))]
    write_video(Path("a.mkv"), times=times)
    seen = read_all("a.mkv")
    assert list(seen) == [f"a.mkv#t={time / 1000:.3f}" for time in times]
    assert numbers(list(seen.values())) == list(range(40))


def test_threads_nearly_in_order_decode_once() -> None:
    """Decoding ahead asks a little out of order, which must not start a group of frames again."""
    write_video(Path("a.mkv"), gop=40)
    part: Any = open_source(["a.mkv"])
    for first in range(0, 40, 8):
        for index in (7, 2, 0, 5, 1, 6, 3, 4):
            part.image(first + index)
    assert part.seeks == 1
    part.close()


def test_frames_far_ahead_or_behind_are_sought() -> None:
    write_video(Path("a.mp4"), gop=5)
    part: Any = open_source(["a.mp4"])
    part.image(0)
    assert numbers([np.asarray(part.image(index)) for index in (1, 33, 12, 3)]) == [1, 33, 12, 3]
    assert part.seeks == 4, "one for opening"
    part.close()


def turned(content: bytes, matrix: tuple[int, ...]) -> bytes:
    """An MP4 whose track header asks for rotation (ISO/IEC 14496-12, 8.3.2)."""
    at = content.index(b"tkhd") + 4 + 40
    return content[:at] + struct.pack(">9i", *matrix) + content[at + 36 :]


@pytest.mark.parametrize(
    ("matrix", "quarters"),
    [  # as phones write them: clockwise by 90, 180, 270 degrees
        ((0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30), 3),
        ((-(1 << 16), 0, 0, 0, -(1 << 16), 0, WIDTH << 16, HEIGHT << 16, 1 << 30), 2),
        ((0, -(1 << 16), 0, 1 << 16, 0, 0, 0, WIDTH << 16, 1 << 30), 1),
    ],
)
def test_frames_are_upright(matrix: tuple[int, ...], quarters: int) -> None:
    content = write_video(Path("a.mp4"), 3).read_bytes()
    Path("a.mp4").write_bytes(turned(content, matrix))
    seen = list(read_all("a.mp4").values())
    upright = [np.rot90(frame_pixels(number), quarters) for number in range(3)]
    for got, wanted in zip(seen, upright, strict=True):
        assert got.shape == wanted.shape  # type: ignore[union-attr]
        assert np.abs(got.astype(int) - wanted).mean() < 6  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {"options": {"movflags": "faststart"}}), ("a.mkv", {}), ("a.avi", {})]
)
def test_the_readable_part_of_a_truncated_video_is_kept(name: str, options: dict[str, Any]) -> None:
    content = write_video(Path(name), **options).read_bytes()
    Path(name).write_bytes(content[: 2 * len(content) // 3])
    seen = read_all(name)
    assert list(seen)[-1] == f"{name}#rest"
    assert "lost after" in seen[f"{name}#rest"]
    whole = [one for one in seen.values() if not isinstance(one, str)]
    assert len(whole) >= 10
    assert numbers(whole) == list(range(len(whole)))


def test_files_that_are_not_videos_do_not_affect_others() -> None:
    content = write_video(Path("late.mp4")).read_bytes()
    Path("late.mp4").write_bytes(content[: len(content) // 2])  # its index was at the end
    Path("text.mp4").write_text("no video " * 99)
    Path("empty.mkv").touch()
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_video(Path("good.mp4"), 4)
    seen = read_all("late.mp4", "text.mp4", "empty.mkv", "sound.mp4", "good.mp4")
    assert list(seen)[:4] == ["late.mp4", "text.mp4", "empty.mkv", "sound.mp4"]
    assert "cannot be read as a video" in seen["late.mp4"]
    assert "'sound.mp4': holds no video" in seen["sound.mp4"]
    assert numbers(list(seen.values())[4:]) == [0, 1, 2, 3]


def test_video_that_vanishes_is_an_image_error() -> None:
    write_video(Path("a.mp4"))
    source = open_source(["a.mp4"])
    Path("a.mp4").unlink()
    assert all("No such file" in str(one) for one in read_by_threads(source))


def test_many_videos_do_not_stay_open() -> None:
    for number in range(7):
        write_video(Path(f"{number}.mp4"), 3)
    source: Any = open_source(["*.mp4"])
    for index in range(len(source.ids)):
        source.image(index)
    assert sum(part.is_open for part in source.parts) == 4  # type: ignore[attr-defined]
    source.close()
    assert not any(part.is_open for part in source.parts)  # type: ignore[attr-defined]


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[video\]'"):
        open_source(["a.mp4"])
