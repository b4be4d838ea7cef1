"""Write a video with every frame beside its map. Needs PyAV (extra `video`).

Two passes: frames spread over the whole video give one basis or scale, then each frame is painted and
encoded. One frame is in memory at a time, besides the SAMPLES of the first pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.embedder import Embedder
from dinodeploy.errors import ImageError, MisuseError, OutputExistsError, UnavailableError, reason_of
from dinodeploy.files.atomic import atomic_path
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.visualize.drawn import draw_over
from dinodeploy.visualize.look import Attend, Look, look_at, need_attention
from dinodeploy.visualize.maps import MapOptions, Painter, fit_painter

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
SAMPLES = 12  # frames that the basis is fitted on
CODECS = ("libx264", "mpeg4")  # the first that this FFmpeg build can encode
RATE = Fraction(25)  # frames per second where the file does not say


def check_video(source: Path, what: str, out: Path | None, page: Path | None, overwrite: bool) -> Path:
    """The path of the video to write. Raises MisuseError, OutputExistsError."""
    if page is not None:
        raise MisuseError("--html works with images, not with a video; leave it out")
    if not source.is_file():
        raise MisuseError(f"{str(source)!r} does not exist; wanted a video")
    target = out or source.with_name(f"{source.stem}_{what}.mp4")
    if target.suffix.lower() not in VIDEO_SUFFIXES:
        raise MisuseError(f"--out {str(target)!r}: wanted a video, one of {' '.join(VIDEO_SUFFIXES)}")
    if target.resolve() == source.resolve():
        raise MisuseError(f"--out {str(target)!r} is the video itself; wanted another file")
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists; use --overwrite or another --out")
    return target


def visualize_video(
    embedder: Embedder,
    source: Path,
    what: str,
    target: Path,
    *,
    steps: Preprocess,
    point: tuple[float, float] | None,
    options: MapOptions,
    attend: Attend | None = None,
    advance: Callable[[int, int], None] = lambda done, failed: None,
) -> tuple[int, str]:
    """Write `target`; return its number of frames and a line that says what they show.

    `point`, for similarity, is in pixels of the first frame. Raises MisuseError, ImageError for a file that
    is not a video, UnavailableError without PyAV.
    """
    if what == "attention":
        need_attention(embedder, attend)
    attend = attend if what == "attention" else None
    samples = sample_frames(source)
    looks = [look_at(embedder, frame, source.name, steps, attend) for frame in samples]
    if point is not None:
        width, height = samples[0].size
        if point[0] >= width or point[1] >= height:
            raise MisuseError(
                f"--point {point[0]:g},{point[1]:g} is outside {source}, which is {width}x{height} pixels"
            )
        options = MapOptions((point[0] / width, point[1] / height), options.mask)
    painter, words = fit_painter(what, looks, options)
    with atomic_path(target) as partial:
        count = 0
        pairs = (
            side_by_side(look_at(embedder, frame, source.name, steps, attend), painter)
            for frame in read_frames(source)
        )
        with _av().open(str(source)) as container:
            rate = container.streams.video[0].average_rate or RATE
        for count in _encode(pairs, partial, rate):
            advance(count, 0)
    return count, words


def sample_frames(source: Path, count: int = SAMPLES) -> list[Image.Image]:
    """At most `count` evenly spread frames, including the first, for a video of any length.

    Every 2^k-th frame is kept; when there are too many, every second one is dropped and k grows by one.
    Raises ImageError for a video without frames.
    """
    kept: list[Image.Image] = []
    stride = 1
    for index, frame in enumerate(read_frames(source)):
        if index % stride:
            continue
        kept.append(frame)
        if len(kept) > count:
            kept, stride = kept[::2], 2 * stride
    if not kept:
        raise ImageError(f"{source}: the video has no frames")
    return kept


def side_by_side(look: Look, painter: Painter) -> Image.Image:
    """The frame with its first layer to the right; even sides, which encoders require."""
    width, height = (side - side % 2 for side in look.image.size)
    both = Image.new("RGB", (2 * width, height))
    frame = look.image.crop((0, 0, width, height))
    both.paste(frame, (0, 0))
    both.paste(draw_over(painter(look)[0], frame), (width, 0))
    return both


def read_frames(source: Path) -> Iterator[Image.Image]:
    """Frames of the first video stream, RGB. Raises ImageError for a file that is not a video."""
    av = _av()
    try:
        with av.open(str(source)) as container:
            if not container.streams.video:
                raise ImageError(f"{source}: the file has no video stream")
            for frame in container.decode(video=0):
                yield frame.to_image()
    except (av.error.FFmpegError, ValueError) as error:
        raise ImageError(f"{source}: cannot be decoded: {reason_of(error)}") from error


def _encode(frames: Iterator[Image.Image], target: Path, rate: Fraction) -> Iterator[int]:
    """Write frames one by one; yield the number written so far."""
    av = _av()
    with av.open(str(target), "w") as container:
        stream: Any = None
        for count, image in enumerate(frames, 1):
            if stream is None:
                codec = next(name for name in CODECS if name in av.codecs_available)
                stream = container.add_stream(codec, rate=rate)
                stream.width, stream.height = image.size
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            container.mux(stream.encode(frame))
            yield count
        if stream is not None:
            container.mux(stream.encode())


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UnavailableError("videos need PyAV: pip install 'dinodeploy[video]'") from error
    return av
