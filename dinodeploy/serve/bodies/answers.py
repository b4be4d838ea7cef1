"""Answers of JSON in pieces, such as that of /embed: a large answer is never in memory as a whole.

Written without pydantic: validating a million numbers takes seconds.

Shapes: D embed_dim, h w patch grid.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dinodeploy.arrays import FloatArray
from dinodeploy.serve.service import Answer, Service

Encoding = Literal["json", "base64"]
BYTES_PER_NUMBER: dict[str, float] = {"json": 22.0, "base64": 16 / 3}  # in JSON at most, with its comma
PIECE = 64 << 10  # bytes of one piece, or the next larger row
_SLICE = 48 << 10  # bytes encoded at a time, a multiple of three


def encoded_size(answers: Sequence[Answer], encoding: Encoding) -> int:
    """Estimated bytes of the answer, from above."""
    numbers = sum(values.size for answer in answers for values in answer.outputs.values())
    return round(numbers * BYTES_PER_NUMBER[encoding])


def encode_answers(
    answers: Sequence[Answer], fingerprint: dict[str, Any], encoding: Encoding
) -> Iterator[bytes]:
    """`messages.EmbedResponse` as JSON, in pieces of about PIECE bytes."""
    return in_pieces(_parts(answers, fingerprint, encoding))


def send_pieces(request: Request, service: Service, size: int, pieces: Iterator[bytes]) -> Response:
    """An answer of about `size` bytes; a large one is encoded while it is sent. Raises Refused, 413, 503."""
    if size < PIECE:
        return Response(b"".join(pieces), media_type="application/json")
    request.state.held = service.hold_answer(size)  # the guard releases it
    return StreamingResponse(_in_thread(service, pieces), media_type="application/json")


async def _in_thread(service: Service, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of an answer, encoded in the thread for large answers."""
    loop = asyncio.get_running_loop()
    while piece := await loop.run_in_executor(service.encoders, next, pieces, b""):
        yield piece


def _parts(answers: Sequence[Answer], fingerprint: dict[str, Any], encoding: Encoding) -> Iterator[bytes]:
    write = _as_base64 if encoding == "base64" else _as_lists
    yield b'{"images":['
    for number, answer in enumerate(answers):
        facts = {
            "name": answer.name,
            "width": answer.width,
            "height": answer.height,
            "input": list(answer.size),
        }
        yield (b"," if number else b"") + _dump(facts)[:-1] + b',"outputs":{'
        for index, (name, values) in enumerate(answer.outputs.items()):
            yield (b"," if index else b"") + _dump(name) + b":"
            yield from write(values)
        yield b"}}"
    yield b'],"fingerprint":' + _dump(fingerprint) + b"}"


def _as_lists(values: FloatArray) -> Iterator[bytes]:
    """Nested lists, a row of the first axis at a time."""
    if values.ndim < 2:
        yield _dump(values.tolist())
        return
    yield b"["
    for number, row in enumerate(values):
        if number:
            yield b","
        yield from _as_lists(row) if row.ndim > 1 else (_dump(row.tolist()),)
    yield b"]"


def _as_base64(values: FloatArray) -> Iterator[bytes]:
    yield _dump({"dtype": "float32", "shape": list(values.shape)})[:-1] + b',"base64":"'
    data = np.ascontiguousarray(values, "<f4").data.cast("B")
    for start in range(0, len(data), _SLICE):
        yield base64.b64encode(data[start : start + _SLICE])
    yield b'"}'


def in_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about PIECE bytes."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
