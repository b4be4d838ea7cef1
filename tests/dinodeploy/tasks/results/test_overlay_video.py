"""Pieces of a video, joined without encoding again: every frame, at its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.tasks.results.overlay_video import encode_piece, join_pieces

av = pytest.importorskip("av")


def test_frames_keep_their_times_and_order(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 210, 1000, 1033]  # a phone's: not evenly spaced
    frames = []
    for index, time in enumerate(times):
        Image.new("RGB", (65, 48), (30 * index, 0, 0)).save(tmp_path / f"{index}.png")
        frames.append((time, tmp_path / f"{index}.png"))
    pieces = [tmp_path / "1_piece.mkv", tmp_path / "2_piece.mkv"]
    encode_piece(frames[:4], pieces[0])
    encode_piece(frames[4:], pieces[1])
    made = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for target in made:
        join_pieces(pieces, target)
    assert made[0].read_bytes() == made[1].read_bytes()
    with av.open(str(made[0])) as container:
        found = [
            (round(1000 * frame.time), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    assert [time for time, _ in found] == times
    assert found[0][1].shape == (48, 64, 3), "encoders want even sides"
    reds = [float(np.median(pixels[..., 0])) for _, pixels in found]
    assert np.abs(np.array(reds) - 30 * np.arange(7)).max() < 12
