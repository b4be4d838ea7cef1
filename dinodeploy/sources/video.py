"""Videos, frame by frame: every n-th one, upright. Needs PyAV, the extra `video`.

    clip.mp4#t=12.480       the id of the frame shown 12.48 seconds after the start

The packets are listed once, without decoding, which gives the time of every frame, whatever the frame rate.
Decoding runs forwards; frames on the list that it passes are kept for the threads that will ask for them,
and only what lies further back, or far ahead, is sought. What a cut-off file lost is said by clip.mp4#rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError, UnavailableError, first_line
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.place import Place, Unreadable

if TYPE_CHECKING:
    from dinodeploy.sources import Source

_KEPT = 24  # decoded frames that nobody asked for yet: more than there are decoding threads
_NEAR = 8  # frames that are decoded on the way sooner than sought
_OPTIONS = {"fflags": "+genpts"}  # times where a container stores none, as old AVI files do


class VideoSource:
    """The chosen frames of one video. Opened on the first picture; one thread at a time decodes."""

    ids_are_places = True

    def __init__(self, place: Place, ids: Sequence[str], times: Sequence[int], keys: Sequence[int]) -> None:
        self.ids = ids
        self._place = place
        self._times = times  # of the chosen frames, in the stream's own unit
        self._keys = keys  # times that decoding can start at
        self._wanted = set(times)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._at: int | None = None  # time of the frame decoded last
        self._lock = Lock()

    def picture(self, index: int) -> Image.Image:
        av = _av()
        try:
            with self._lock:
                frame = self._frame(self._times[index])
            return _upright(frame)
        except (av.FFmpegError, OSError, ValueError) as error:
            with self._lock:
                self._let_go()
            raise ImageError(f"{self.ids[index]!r}: cannot be decoded: {first_line(error)}") from error

    def _frame(self, time: int) -> Any:
        if time in self._kept:
            return self._kept.pop(time)
        key = self._keys[max(0, bisect_right(self._keys, time) - 1)]
        behind = self._at is None or time <= self._at
        if behind or (self._at is not None and key > self._at and self._steps(self._at, key) > _NEAR):
            self._seek(key)
        found = self._decode_to(time)
        if found is None and self._keys and key != self._keys[0]:  # a container whose index is not exact
            self._seek(self._keys[0])
            found = self._decode_to(time)
        if found is None:
            raise ValueError("the frame is not in the stream any more")
        return found

    def _steps(self, start: int, end: int) -> int:
        """How many chosen frames lie between two times."""
        return bisect_right(self._times, end) - bisect_right(self._times, start)

    def _seek(self, time: int) -> None:
        if self._container is None:
            self._container = _open(self._place)
        stream = self._container.streams.video[0]
        self._container.seek(time, stream=stream, backward=True)
        self._frames = self._container.decode(stream)
        self._at = None

    def _decode_to(self, time: int) -> Any:
        """The frame of that time, or None once it is passed; chosen ones on the way are kept."""
        for frame in self._frames:
            at = frame.pts if frame.pts is not None else frame.dts
            if at is None:
                continue
            self._at = at
            if at == time:
                return frame
            if at > time:
                return None
            if at in self._wanted:
                self._kept[at] = frame
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return None

    def _let_go(self) -> None:
        self._frames, self._at = iter(()), None
        self._kept.clear()
        if self._container is not None:
            self._container.close()
            self._container = None

    def close(self) -> None:
        with self._lock:
            self._let_go()


def open_place(place: Place, options: SourceOptions) -> list[Source]:
    """Every n-th frame of a video, and what it lost."""
    av = _av()
    try:
        with _open(place) as container:
            if not container.streams.video:
                return [Unreadable(place.name, "holds no video")]
            stream = container.streams.video[0]
            unit, promised = stream.time_base, stream.frames
            times, keys, lost = _list_frames(container, stream, av)
    except (av.FFmpegError, OSError, ValueError) as error:
        return [Unreadable(place.name, f"cannot be read as a video: {first_line(error)}")]
    if not times:
        return [Unreadable(place.name, f"holds no frame{': ' if lost else ''}{lost}")]
    if promised > len(times) and not lost:
        lost = f"{promised} frames were promised"
    chosen = times[:: options.every]
    source = VideoSource(place, _ids(place.name, chosen, times[0], unit), chosen, keys or times[:1])
    if not lost:
        return [source]
    return [source, Unreadable(f"{place.name}#rest", f"lost after {len(times)} frames: {lost}")]


def _list_frames(container: Any, stream: Any, av: Any) -> tuple[list[int], list[int], str]:
    """Times of all frames and of those that decoding can start at, in the order they are shown."""
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
        lost = first_line(error)
    return sorted(times), sorted(keys), lost


def _ids(name: str, times: Sequence[int], start: int, unit: Fraction) -> PackedIds:
    """Seconds after the start with three decimals, or as many more as tell the frames apart."""
    seconds = [(time - start) * unit for time in times]
    for digits in (3, 6, 9):
        texts = [f"{float(second):.{digits}f}" for second in seconds]
        if len(set(texts)) == len(texts):
            break
    return PackedIds(f"{name}#t={text}" for text in texts)


def _upright(frame: Any) -> Image.Image:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))


def _open(place: Place) -> Any:
    return _av().open(place.open(), options=_OPTIONS)


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "videos need PyAV, which is missing; pip install 'dinodeploy[video]'"
        ) from error
    return av
