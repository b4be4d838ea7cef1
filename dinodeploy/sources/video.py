"""Videos: every n-th frame, upright. Needs PyAV, the extra `video`.

    clip.mp4#t=12.480       the id of the frame shown 12.48 seconds after the start

The packets are listed once without decoding, which gives the time of every frame at any frame rate. Decoding
runs forwards and keeps the chosen frames that it passes for other threads; it seeks only backwards or far
ahead. The id clip.mp4#rest reports what a truncated file lost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError, UnavailableError, reason_of
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile, Unreadable, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions, Stamp

_KEPT = 16  # decoded frames kept for later: more than there are decoding threads
_NEAR = 8  # chosen frames to decode on the way rather than to seek
_ENOUGH, _SLACK = Fraction(95, 100), Fraction(1, 2)  # share of the header's length, and seconds: it rounds
_OPTIONS = {"fflags": "+genpts"}  # makes times where a file stores none, as old AVI files do


class VideoSource:
    """The chosen frames of one video. The first image opens it; one thread at a time decodes."""

    ids_are_locations = True

    def __init__(self, file: InputFile, ids: IdList, times: Sequence[int], keys: Sequence[int]) -> None:
        self.ids = ids
        self._file = file
        self._stamp = stamp_of_file(file)
        self._times = times  # of the chosen frames, in the stream's time base
        self._keys = keys  # times of key frames
        self._wanted = set(times)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._container: Any = None
        self._stack = ExitStack()  # closes the container and its file
        self._frames: Iterator[Any] = iter(())
        self._at: int | None = None  # time of the last decoded frame
        self._overshot = False  # the last seek landed after the wanted frame
        self.seeks = 0
        self._lock = Lock()

    def image(self, index: int) -> Image.Image:
        av = _av()
        try:
            with self._lock:
                frame = self._frame(self._times[index])
            return _upright(frame)
        except (av.FFmpegError, OSError, ValueError) as error:
            with self._lock:
                self._close()
            raise ImageError(f"{self.ids[index]!r}: cannot be decoded: {reason_of(error)}") from error

    def _frame(self, time: int) -> Any:
        if time in self._kept:
            return self._kept.pop(time)
        key = max(0, bisect_right(self._keys, time) - 1)
        if self._at is not None and self._at < time and self._steps(self._at, self._keys[key]) <= _NEAR:
            found = self._decode_to(time)
        else:
            found = self._sought(key, time)
        if found is None:
            raise ValueError("the frame is no longer in the stream")
        return found

    def _sought(self, key: int, time: int) -> Any:
        """Decode from a key frame, and from earlier ones as long as seeking lands too late."""
        back = 1
        while True:
            self._seek(key)
            found = self._decode_to(time)
            if found is not None or not self._overshot or key == 0:
                return found
            key = max(0, key - back)
            back *= 2

    def _steps(self, start: int, end: int) -> int:
        """Number of chosen frames between two times."""
        return bisect_right(self._times, end) - bisect_right(self._times, start)

    def _seek(self, key: int) -> None:
        """Go to a key frame; to the first by reopening the file, which cannot land too late."""
        self.seeks += 1
        if key == 0 or self._container is None:
            self._reopen()
        stream = self._container.streams.video[0]
        if key > 0:
            self._container.seek(self._keys[key], stream=stream, backward=True)
        self._frames = self._container.decode(stream)
        self._at = None

    def _reopen(self) -> None:
        self._stack.close()
        self._container = self._stack.enter_context(_opened(self._file))

    def _decode_to(self, time: int) -> Any:
        """The frame at that time, or None once it is passed; keeps the chosen frames on the way."""
        self._overshot = False
        for frame in self._frames:
            at = frame.pts if frame.pts is not None else frame.dts
            if at is None:
                continue
            first, self._at = self._at is None, at
            if at == time:
                return frame
            if at in self._wanted:
                self._kept[at] = frame
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            if at > time:
                self._overshot = first
                return None
        self._overshot = self._at is None
        return None

    def _close(self) -> None:
        self._frames, self._at = iter(()), None
        self._container = None
        self._stack.close()

    def release(self) -> None:
        """Close the decoder and drop all frames; the next image opens it again."""
        with self._lock:
            self._close()
            self._kept.clear()

    def stamp(self, index: int) -> Stamp:
        return self._stamp

    @property
    def is_open(self) -> bool:
        return self._container is not None

    close = release


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """Every n-th frame of a video, and its unreadable rest."""
    av = _av()
    try:
        with _opened(file) as container:
            if not container.streams.video:
                return [Unreadable(file.name, "holds no video")]
            stream = container.streams.video[0]
            unit = stream.time_base
            times, keys, lost = _list_frames(container, stream, av)
            lost = lost or _shortfall(container, stream, times)
    except (av.FFmpegError, OSError, ValueError) as error:
        return [Unreadable(file.name, f"cannot be read as a video: {reason_of(error)}")]
    if not times:
        return [Unreadable(file.name, f"holds no frame{': ' if lost else ''}{lost}")]
    chosen = times[:: options.every]
    source = VideoSource(file, _ids(file.name, chosen, times[0], unit), chosen, keys or times[:1])
    if not lost:
        return [source]
    return [source, Unreadable(f"{file.name}#rest", f"lost after {len(times)} frames: {lost}")]


def _list_frames(container: Any, stream: Any, av: Any) -> tuple[list[int], list[int], str]:
    """Times of all frames, times of key frames, both ascending, and why the list ends early."""
    times: set[int] = set()
    keys: set[int] = set()
    lost = ""
    try:
        for packet in container.demux(stream):
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or not packet.size or packet.is_discard:
                continue
            times.add(time)
            if packet.is_corrupt:
                lost = lost or "a packet is cut off"
            if packet.is_keyframe:
                keys.add(time)
    except av.FFmpegError as error:
        lost = reason_of(error)
    return sorted(times), sorted(keys), lost


def _shortfall(container: Any, stream: Any, times: Sequence[int]) -> str:
    """How much more the file's header promises than there is, if it is much."""
    if stream.frames > len(times):
        return f"its header counts {stream.frames}"
    alone = len(container.streams) == 1
    promised = stream.duration * stream.time_base if stream.duration else Fraction(0)
    if not promised and alone and container.duration:
        promised = Fraction(container.duration, 1_000_000)
    length = (times[-1] - times[0]) * stream.time_base if times else Fraction(0)
    if length < promised * _ENOUGH - _SLACK:
        return f"its header promises {float(promised):.2f} s, the last frame is at {float(length):.2f} s"
    return ""


def _ids(name: str, times: Sequence[int], start: int, unit: Fraction) -> IdList:
    """Seconds after the start, with three decimals or as many as distinguish the frames."""
    seconds = [(time - start) * unit for time in times]
    for digits in (3, 6, 9):
        texts = [f"{float(second):.{digits}f}" for second in seconds]
        if len(set(texts)) == len(texts):
            break
    return IdList(f"{name}#t={text}" for text in texts)


def _upright(frame: Any) -> Image.Image:
    if frame.is_corrupt:
        raise ValueError("the frame is damaged")
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))


@contextmanager
def _opened(file: InputFile) -> Iterator[Any]:
    with file.open() as stream, _av().open(stream, options=_OPTIONS) as container:
        yield container


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "videos need PyAV, which is missing; pip install 'dinodeploy[video]'"
        ) from error
    return av
