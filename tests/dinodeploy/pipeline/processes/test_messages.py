"""Frames between processes: whole, in order, however the pipe cuts them."""

from __future__ import annotations

import io

from dinodeploy.pipeline.processes.messages import frame, pickled, receive, split


def test_frames_are_found_however_they_arrive() -> None:
    sent = frame(b"") + frame(b"abc") + frame(b"d" * 300)
    buffer, found = bytearray(), []
    for byte in sent:
        buffer.append(byte)
        found += split(buffer)
    assert found == [b"", b"abc", b"d" * 300]
    assert not buffer


def test_messages_end_with_the_pipe() -> None:
    pipe = io.BytesIO(pickled([(3, "a\udce9.jpg")]))  # a name that is not valid Unicode
    assert receive(pipe) == [(3, "a\udce9.jpg")]
    assert receive(pipe) is None
