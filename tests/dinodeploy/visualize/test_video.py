"""A video in, a video out: frames, sizes, and one basis for all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.visualize.video import read_frames, sample_frames
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

av = pytest.importorskip("av", reason="PyAV is not installed (extra `video`)")

FRAMES, SIZE = 9, (90, 64)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window that moves over a photograph: odd sides, no sound."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    whole = photograph("chelsea")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(FRAMES):
            picture = whole.crop((10 * index, 0, 10 * index + SIZE[0], SIZE[1]))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


def test_samples_are_spread_over_the_whole(clip: Path) -> None:
    frames = list(read_frames(clip))
    assert len(frames) == FRAMES
    samples = sample_frames(clip, 3)  # every fourth: 0, 4, 8
    assert len(samples) == 3
    for sample, index in zip(samples, (0, 4, 8), strict=True):
        assert sample == frames[index]
    assert len(sample_frames(clip, 100)) == FRAMES


@pytest.mark.parametrize("what", ["pca", "foreground", "similarity"])
def test_a_clip_becomes_a_clip(
    what: str, clip: Path, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    out = tmp_path / "out.mp4"
    options = ("--point", "3,4") if what == "similarity" else ()
    arguments = ("visualize", clip, "--engine", tiny_bundle, "--what", what, "--out", out, "--imgsz", 64)
    ran = run(*arguments, *options, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["frames"] == FRAMES
    assert list(tmp_path.iterdir()) == [out], "nothing half-written beside it"
    frames = list(read_frames(out))
    assert [frame.size for frame in frames] == [(2 * SIZE[0], SIZE[1])] * FRAMES
    left = np.asarray(frames[4].crop((0, 0, *SIZE)), float)
    np.testing.assert_allclose(left, np.asarray(list(read_frames(clip))[4], float), atol=60)  # coded twice
    assert np.abs(left - np.asarray(list(read_frames(clip))[4], float)).mean() < 8
    right = np.asarray(frames[4].crop((SIZE[0], 0, 2 * SIZE[0], SIZE[1])), float)
    assert right.std() > 10
    ran = run(*arguments, *options)
    assert "use --overwrite" in ran.error


def test_what_is_no_video_is_refused(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    fake, text = tmp_path / "fake.mp4", tmp_path / "text.mp4"
    fake.write_bytes(b"\0" * 100)
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    text.write_text("no video")
    for source, options, message in (
        (fake, (), "cannot be decoded"),
        (tmp_path / "absent.mp4", (), "does not exist"),
        (fake, ("--html", tmp_path / "page.html"), "--html works with images"),
        (fake, ("--out", fake), "is the video itself"),
        (fake, ("--out", tmp_path / "folder"), "wanted a video, one of"),
    ):
        ran = run("visualize", source, "--engine", tiny_bundle, *options)
        assert ran.code == 2, ran.err
        assert message in ran.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake.mp4", "still.png", "text.mp4"]
