"""Messages between the service and a decoder process."""

from __future__ import annotations

import io
import struct

import pytest

from dinodeploy.serve.decoders.wire import Job, receive_job, receive_reply, send_job, send_reply

JOB = Job("embed", 100, ("JPEG",))


def test_a_job_and_a_reply_arrive() -> None:
    pipe = io.BytesIO()
    send_job(pipe, JOB, b"data")
    pipe.seek(0)
    assert receive_job(pipe) == (JOB, b"data")
    assert receive_job(pipe) is None
    pipe = io.BytesIO()
    send_reply(pipe, {"done": True}, b"pixels")
    pipe.seek(0)
    assert receive_reply(pipe, 6) == ({"done": True}, b"pixels")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\1\0",
        struct.pack("<II", 2, 0) + b"{",
        struct.pack("<II", 2, 9) + b"{}" + b"123456789",
        struct.pack("<II", 1 << 20, 0) + b" " * (1 << 20),
        struct.pack("<II", 2, 0) + b"[]",
        struct.pack("<II", 2, 0) + b"x\xff",
    ],
)
def test_a_reply_that_makes_no_sense_is_the_end_of_the_process(raw: bytes) -> None:
    with pytest.raises(EOFError):
        receive_reply(io.BytesIO(raw), 8)
