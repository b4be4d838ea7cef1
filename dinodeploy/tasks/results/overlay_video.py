"""Overlay frames of a video become a video again. Needs PyAV (extra `video`).

Each shard encodes its frames into a piece; at the end the packets of all pieces are copied into one file.
Frames keep their times, in milliseconds after the first, and there are no B-frames, so packets are in order.

Shapes: frames of one size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.errors import UnavailableError
from dinodeploy.visualize.video import CODECS

_TICK = Fraction(1, 1000)  # seconds
_RATE = Fraction(25)  # frames per second, which encoders want to know; each frame has its own time
_QUALITY = {"libx264": {"crf": "20", "preset": "veryfast", "bf": "0"}, "mpeg4": {"qscale": "3"}}


def check_video() -> None:
    """Raises UnavailableError without PyAV."""
    if find_spec("av") is None:
        raise UnavailableError("videos need PyAV: pip install 'dinodeploy[video]'")


def encode_piece(frames: Iterable[tuple[int, Path]], target: Path) -> None:
    """(milliseconds, image file) in order -> a Matroska file, which keeps times as they are."""
    import av

    with av.open(str(target), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream: Any = None
        for milliseconds, path in frames:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            if stream is None:
                codec = next(name for name in CODECS if name in av.codecs_available)
                stream = container.add_stream(codec, rate=_RATE, options=_QUALITY[codec])
                stream.width, stream.height = (
                    side - side % 2 for side in image.size
                )  # encoders want even sides
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = _TICK
                stream.time_base = _TICK
                stream.codec_context.flags |= _BITEXACT
            image = image.crop((0, 0, stream.width, stream.height))
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame.pts, frame.time_base = milliseconds, _TICK
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())


_BITEXACT = 1 << 23  # of libavcodec: no version of itself in the stream


def join_pieces(pieces: Sequence[Path], target: Path) -> None:
    """Copy the packets of all pieces, in order, into one MP4."""
    import av

    with av.open(
        str(target), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}
    ) as made:
        stream: Any = None
        last = -1
        for piece in pieces:
            with av.open(str(piece)) as container:
                source = container.streams.video[0]
                if stream is None:
                    stream = made.add_stream_from_template(source)
                    stream.time_base = _TICK
                for packet in container.demux(source):
                    if packet.pts is None:
                        continue
                    last = max(last + 1, round(packet.pts * packet.time_base / _TICK))
                    packet.pts = packet.dts = last
                    packet.time_base = _TICK
                    packet.stream = stream
                    made.mux(packet)
