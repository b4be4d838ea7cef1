"""Connections that say nothing, say it slowly, or do not read: each is closed, and others are answered."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy.serve.limits import connections
from dinodeploy.serve.limits.connections import AHEAD_SECONDS, RESERVED, most_connections
from tests.support.processes.live_service import Live, live

TIMEOUT = 30.0


@pytest.fixture
def service(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    for name in ("IDLE_SECONDS", "READ_SECONDS", "SLOW_SECONDS"):
        monkeypatch.setattr(connections, name, 0.6)
    with live(tiny_bundle, max_connections=20) as client:
        yield client


def connect(service: Live, sent: bytes = b"", received: int | None = None) -> socket.socket:
    """received: bytes of the buffer for answers; set before it connects, it bounds what both sides keep."""
    opened = socket.socket()
    opened.settimeout(TIMEOUT)
    if received is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
    opened.connect((service.base_url.host, service.base_url.port or 80))
    opened.sendall(sent)
    return opened


def is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(1 << 16):
            continue
    except ConnectionError:
        return True
    return True


HALF = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


@pytest.mark.parametrize("sent", [b"", b"G", HALF, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"])
def test_a_connection_without_a_whole_request_is_closed(service: Live, sent: bytes) -> None:
    with connect(service, sent) as connection:
        before = time.monotonic()
        assert is_closed(connection)
        assert 0.3 < time.monotonic() - before < 5


def test_headers_a_byte_at_a_time_do_not_keep_it_open(service: Live) -> None:
    with connect(service, HALF) as connection:
        before = time.monotonic()
        closed = False
        while not closed and time.monotonic() - before < 10:
            try:
                connection.sendall(b"x")
            except ConnectionError:
                closed = True
            time.sleep(0.05)
        assert closed


def test_more_connections_than_allowed_do_not_keep_others_out(service: Live) -> None:
    body = HALF + b"Content-Length: 1000\r\n\r\n" + b"x" * 10
    held = [connect(service, sent) for sent in (b"", HALF, body) for _ in range(20)]
    before = time.monotonic()
    assert service.get("/health").status_code == 200
    assert time.monotonic() - before < 3
    assert service.get("/model").status_code == 200
    for connection in held:
        connection.close()


def test_a_client_that_does_not_read_its_answers_is_closed(service: Live) -> None:
    with connect(service, received=4096) as connection:
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        before = time.monotonic()
        connection.settimeout(0.2)
        closed = False
        while not closed and time.monotonic() - before < 60:  # 5 s on a quiet machine
            try:
                connection.sendall(request * 50)
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed
    assert service.get("/health").status_code == 200


def test_requests_sent_ahead_are_answered_in_order_and_take_turns(service: Live) -> None:
    count = 30
    ahead = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * count
    before = time.monotonic()
    held = [connect(service, ahead + HALF + b"Content-Length: 1\r\n\r\nx") for _ in range(3)]
    for connection in held:
        received = b""
        while received.count(b"HTTP/1.1 200") < count or b"not an image" not in received:
            part = connection.recv(1 << 16)
            assert part, received[-300:]
            received += part
        assert received.index(b"HTTP/1.1 422") > received.rindex(b"HTTP/1.1 200")
        connection.close()
    assert time.monotonic() - before >= len(held) * count * AHEAD_SECONDS


def test_a_body_in_tiny_chunks_is_refused(service: Live) -> None:
    head = HALF + b"Transfer-Encoding: chunked\r\n\r\n"
    with connect(service, head + b"1\r\nx\r\n" * 20_000) as connection:
        assert b" 400 " in connection.recv(1000)
    whole = b"x" * 1000
    answer = service.post("/embed", content=iter([whole] * 200), headers={"content-type": "image/jpeg"})
    assert "not an image" in answer.text


def test_the_limit_stays_below_the_file_descriptors() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert most_connections(10**9) == soft - RESERVED
    assert most_connections(5) == 5
