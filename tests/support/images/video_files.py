"""Short videos of real photographs that slide by, so that every frame differs."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.images.photographs import photograph

WIDTH, HEIGHT = 96, 64


@cache
def frame_pixels(number: int) -> np.ndarray[Any, Any]:
    """What frame `number` shows: a window that moves 4 pixels a frame over a photograph."""
    photo = np.asarray(photograph("coffee").resize((600, 400)))
    return np.ascontiguousarray(photo[100 : 100 + HEIGHT, 4 * number : 4 * number + WIDTH])


def write_video(
    path: Path,
    frames: int = 40,
    *,
    codec: str = "mpeg4",
    times: list[int] | None = None,
    gop: int = 12,
    b_frames: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """`times` in milliseconds, 40 apart if None."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_image(Image.fromarray(frame_pixels(number)))
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 25) if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
