"""Frames of a video file, each n-th: an id is `clip.mp4#t=12.480`, its time in seconds.

The times come from the packets, which are read once without decoding. Frames are decoded in order, and
sought where they are asked for out of order. A display rotation is applied. Needs PyAV: the `video` extra.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from PIL import Image

from dinodeploy.errors import ImageError, UnavailableError, first_line
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.options import SourceOptions

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
_KEPT = 16  # decoded frames: threads ask a little out of order
_SEEK = 64  # wanted frames further on than this are sought, nearer ones are decoded up to


class VideoSource:
    """One video. A file that is none is one picture that cannot be read."""

    def __init__(self, name: str, options: SourceOptions) -> None:
        try:
            import av
        except ModuleNotFoundError as error:
            raise UnavailableError(
                f"{name} needs PyAV, which is not installed: pip install 'dinodeploy[video]'"
            ) from error
        self._av = av
        self._name = name
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Image.Image] = OrderedDict()  # by index
        self._container: Any = None
        self._frames: Any = None
        self._next = 0  # the index of the wanted frame that decoding has not passed yet
        self._problem = ""
        self._times: list[int] = []  # of the wanted frames, in units of the stream
        try:
            self._times, base = self._read_times()
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            self._problem = f"'{name}': not a video that can be read: {first_line(error)}"
        wanted = self._times[:: options.every]
        self._index_of = {time: index for index, time in enumerate(wanted)}
        self._times = wanted
        self.ids: Sequence[str] = PackedIds(
            _names(name, [time * base for time in wanted]) if wanted else [f"{name}#video"]
        )
        if not wanted and not self._problem:
            self._problem = f"'{name}': it has no frames"

    def picture(self, index: int) -> Image.Image:
        if self._problem:
            raise ImageError(self._problem)
        with self._lock:
            if index not in self._kept:
                try:
                    self._decode_to(index)
                except (self._av.FFmpegError, OSError, ValueError) as error:
                    self._stop()
                    raise ImageError(
                        f"{self.ids[index]!r}: cannot be decoded: {first_line(error)}"
                    ) from error
            if index not in self._kept:
                raise ImageError(f"{self.ids[index]!r}: the video breaks off before it")
            return self._kept[index]

    def close(self) -> None:
        with self._lock:
            self._stop()
            self._kept.clear()

    def _read_times(self) -> tuple[list[int], float]:
        with self._av.open(self._name) as container:
            stream = container.streams.video[0]
            times = sorted({packet.pts for packet in container.demux(stream) if packet.pts is not None})
            return times, float(stream.time_base or 1)

    def _decode_to(self, index: int) -> None:
        """Decode on, keeping wanted frames, up to `index` or beyond it; seek where it lies elsewhere."""
        if self._frames is None or index < self._next or index > self._next + _SEEK:
            self._begin_at(index)
        for frame in self._frames:
            if frame.pts is None:
                continue
            found = self._index_of.get(frame.pts)
            if found is not None:
                self._keep(found, frame)
            if frame.pts >= self._times[index]:
                return
        self._stop()

    def _begin_at(self, index: int) -> None:
        if self._container is None:
            self._container = self._av.open(self._name)
        stream = self._container.streams.video[0]
        if index:
            self._container.seek(self._times[index], stream=stream, backward=True)
        else:
            self._stop()
            self._container = self._av.open(self._name)
            stream = self._container.streams.video[0]
        self._frames = self._container.decode(stream)

    def _keep(self, index: int, frame: Any) -> None:
        self._next = index + 1
        image = frame.to_image()
        turn = round(getattr(frame, "rotation", 0) or 0) % 360
        self._kept[index] = image.rotate(turn, expand=True) if turn else image
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _stop(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._frames = None
        self._next = 0


def _names(video: str, seconds: list[float]) -> list[str]:
    """Times to the millisecond, or finer where frames would share one."""
    for digits in (3, 6, 9):
        names = [f"{video}#t={time:.{digits}f}" for time in seconds]
        if len(set(names)) == len(names):
            break
    return names
