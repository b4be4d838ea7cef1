"""Connections: how many, and how long one may take to say something or to read its answer.

A connection without a running request is closed after IDLE_SECONDS, whether it says nothing or sends its
headers a byte at a time. One that does not read its answer is closed after READ_SECONDS. Beyond `most`
connections, the one that has waited longest without a request gives way to the new one.

A client that sends requests ahead (pipelining) is answered in order, but its further requests take turns with
those of other such clients, AHEAD_SECONDS apart: requests of everybody else do not wait for them.

The limit stays below the limit of file descriptors, so that accepting never fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

IDLE_SECONDS = 10.0
SLOW_SECONDS = 1.0  # for a body, when there are too many connections
READ_SECONDS = 20.0  # for 64 KiB of an answer
AHEAD_SECONDS = 0.01  # between two requests that were sent ahead, over all connections
BACKLOG = 32  # connections that asyncio accepts in one go
RESERVED = 96  # file descriptors for everything else: engine, pipes, index, connections that are closing
FEWEST = 8
KEPT = 4  # rank of a connection whose request is being answered
_PIECES = 1024  # of a chunked body, after which they must have
_PIECE = 64  # bytes on average


def most_connections(wanted: int) -> int:
    """`wanted`, or fewer if the limit of file descriptors is lower."""
    if resource is None:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(FEWEST, soft - RESERVED))


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with limits. most: connections of this process."""

    most = 512
    next_turn = 0.0  # of a request that was sent ahead, over all connections; in the loop's time

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Pieces(h11.SERVER, self.config.h11_max_incomplete_event_size or 16 * 1024)
        self.waits_since = time.monotonic()  # for a request, or for the end of one
        self.blocked_since: float | None = None  # by a client that does not read
        self.closing_since: float | None = None
        self.is_large = False  # the announced body
        self.is_ahead = False  # requests wait here for their turn

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._make_room()

    def _make_room(self) -> None:
        """Close this connection, or a few that may go rather: looking at all of them takes a millisecond."""
        now = time.monotonic()
        mine = [one for one in self.connections if isinstance(one, LimitedProtocol)]
        others = [one for one in mine if one is not self and one.rank(now) < KEPT]
        others.sort(key=lambda one: (one.rank(now), one.waits_since))
        for connection in others[: max(1, self.most // 32)] or [self]:
            connection.abort()

    def handle_events(self) -> None:
        if self.is_ahead:
            self.flow.pause_reading()
            return
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.waits_since = time.monotonic()
            length = dict(self.headers).get(b"content-length", b"0")
            self.is_large = len(length) > 6  # a megabyte or more

    def on_response_complete(self) -> None:
        self.waits_since = time.monotonic()
        if self.conn.trailing_data[0] and not self.transport.is_closing():
            self.is_ahead = True
            turn = LimitedProtocol.next_turn = (
                max(LimitedProtocol.next_turn, self.loop.time()) + AHEAD_SECONDS
            )
            self.loop.call_at(turn, self._take_turn)
        super().on_response_complete()

    def _take_turn(self) -> None:
        self.is_ahead = False
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.handle_events()

    def pause_writing(self) -> None:
        self.blocked_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.blocked_since = None
        super().resume_writing()

    def rank(self, now: float) -> int:
        """Which connection gives way first: an old idle one, a slow upload, a large one, a new one."""
        is_old = now - self.waits_since > SLOW_SECONDS
        if not self.is_busy:
            return 0 if is_old else 3
        if not self.cycle.more_body:
            return KEPT
        return 1 if is_old else 2 if self.is_large else 3

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def check(self, now: float) -> None:
        """Close the connection if it takes too long."""
        if self.transport.is_closing():
            self.closing_since = self.closing_since or now
        late = (
            (not self.is_busy and now - self.waits_since > IDLE_SECONDS)
            or (self.blocked_since is not None and now - self.blocked_since > READ_SECONDS)
            or (self.closing_since is not None and now - self.closing_since > READ_SECONDS)
        )
        if late:
            self.abort()

    def abort(self) -> None:
        """Close without waiting for the client."""
        self.transport.abort()


class _Pieces(h11.Connection):
    """A connection that refuses bodies in tiny chunks: each takes as much time as a large one."""

    pieces = received = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if type(event) is h11.Data and event.chunk_end:
            self.pieces += 1
            self.received += len(event.data)
            if self.pieces > _PIECES and self.received < _PIECE * self.pieces:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        elif type(event) is h11.Request:
            self.pieces = self.received = 0
        return event


def check_all(connections: Iterable[Any]) -> None:
    """Close every connection that takes too long."""
    now = time.monotonic()
    for connection in list(connections):
        if isinstance(connection, LimitedProtocol):
            connection.check(now)


def protocol_for(most: int) -> type[LimitedProtocol]:
    """The protocol class of a server with at most `most` connections."""
    return type("Protocol", (LimitedProtocol,), {"most": most_connections(most)})
