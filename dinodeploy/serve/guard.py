"""ASGI middleware in front of every route: API keys, limits, security headers, the log.

Checks, in this order: foreign Host, 421; shutting down, 503; no valid key, 401; too many requests of one
client, 429; body too large, 413, or too slow, 408; too many open requests, 503. The body is read here
completely, and its size checked, before any parser sees it; only routes that take images have one, as
`request.state.body`. The work of a client that has gone is cancelled. An unexpected exception is logged with
its traceback; the client gets one line without it.

The log never contains keys, query strings or bodies.
"""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dinodeploy.serve.access import RateLimit, find_key
from dinodeploy.serve.bodies.problems import problem
from dinodeploy.serve.limits.budget import ByteBudget, Upload
from dinodeploy.serve.limits.hosts import AllowedHosts
from dinodeploy.serve.limits.log import Log
from dinodeploy.serve.metrics import Metrics
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import SOON, Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

PROBES = ("/health", "/ready")  # always answered
WITH_BODY = ("/embed", "/search", "/classify", "/predict", "/v1/embeddings")  # POST; no other route reads one
WORK = (*WITH_BODY, "/thumbnail")  # given up when the client has gone
OPEN = (*PROBES, "/", "/docs", "/openapi.json", "/sample.jpg", "/favicon.ico")  # need no key
BODY_SECONDS = 30.0  # time a client has to send its body
DRAIN_SECONDS = 3.0  # time a client has to notice that its body is too large
READ_SECONDS = 30.0  # time a client has to read its answer,
READ_RATE = 128 << 10  # and a second for each of so many bytes
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass
class _Request:
    """One request, and the facts that are logged about it."""

    scope: Any
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.perf_counter)
    client: str = "-"
    status: int = 0
    received: int = 0  # bytes
    sent: int = 0
    working: bool = False  # its body is complete
    answered: float = 0.0  # when its answer began

    @property
    def has_body(self) -> bool:
        return self.scope["method"] == "POST" and self.path in WITH_BODY

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @cached_property
    def headers(self) -> dict[str, str]:
        found = self.scope["headers"]
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in found}


class Guard:
    """ASGI middleware. Maintains `service.active`, the number of open requests without probes, and
    `service.working`, those of them whose body is complete."""

    def __init__(self, app: App, service: Service, metrics: Metrics, log: Log) -> None:
        self._app, self._service, self._metrics, self._log = app, service, metrics, log
        self._bodies = ByteBudget(service.settings.inflight_bytes)
        self._hosts = AllowedHosts(service.settings.allowed_hosts)
        self._rate = RateLimit(service.settings.rate) if service.settings.rate else None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = _Request(scope)
        scope.setdefault("state", {})["request_id"] = request.id
        counted = request.path not in PROBES
        self._service.active += counted
        try:
            await self._answer(request, receive, self._with_headers(request, send))
        finally:
            self._service.active -= counted
            self._service.working -= request.working
            self._note(request)

    async def _answer(self, request: _Request, receive: Receive, send: Send) -> None:
        upload = self._bodies.open()
        try:
            self._check(request)
            body = await self._body(request, upload, receive) if request.has_body else b""
            request.scope["state"]["body"] = body
            self._start_work(request)
            await self._run(request, receive, send)
        except Refused as refused:
            if not request.status:
                await _send_problem(request, refused, send, receive)
        except Exception:
            self._log.write({"id": request.id, "error": traceback.format_exc()})
            if not request.status:  # no part of an answer was sent yet
                await _send_problem(request, Refused(500, "internal error; see the log"), send, receive)
        finally:
            self._bodies.close(upload)
            request.scope["state"].get("held", _nothing)()

    def _check(self, request: _Request) -> None:
        """Identify the client and check keys and limits. Raises Refused."""
        service, path = self._service, request.path
        client = request.scope.get("client")
        request.client = client[0] if client else "-"
        if path in PROBES:
            return
        if not self._hosts.allows(request.headers.get("host")):
            raise Refused(421, "this service has another name; to serve this one: --allowed-host NAME")
        if service.draining:
            raise Refused(503, "the service is shutting down; use another one", SOON)
        if service.settings.keys and path not in OPEN:
            key = find_key(service.settings.keys, request.headers)
            if key is None:
                raise Refused(
                    401, "no valid key; wanted the header Authorization: Bearer KEY or X-API-Key: KEY"
                )
            request.client = key.name
        if self._rate is not None and (seconds := self._rate.take(request.client)):
            rate = service.settings.rate
            raise Refused(429, f"more than {rate:g} requests per second; retry in {seconds} s", seconds)

    def _start_work(self, request: _Request) -> None:
        """Count a request whose body is complete. Raises Refused if too many are open."""
        if request.path in PROBES:
            return
        if self._service.load >= self._service.settings.queue:
            raise Refused(503, f"{self._service.settings.queue} requests are open; retry later", SOON)
        request.working = True
        self._service.working += 1

    async def _run(self, request: _Request, receive: Receive, send: Send) -> None:
        """Run the route. Raises Refused if the client has gone before its answer began."""
        route = self._app(request.scope, _without_body(receive), send)
        if request.path not in WORK:
            await route
            return
        work = asyncio.ensure_future(route)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not request.status:
                raise Refused(408, "the client has disconnected")
            await work
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _body(self, request: _Request, upload: Upload, receive: Receive) -> bytes:
        """Read the whole body, checking its size as it arrives. Raises Refused."""
        most = self._service.settings.max_bytes
        too_large = Refused(413, f"the body has more than {most:,} bytes; send fewer or smaller images")
        declared = request.headers.get("content-length", "0")
        announced = int(declared[:19]) if declared.isascii() and declared.isdigit() else 0
        if announced > most:
            raise too_large
        deadline = time.monotonic() + BODY_SECONDS
        await self._bodies.reserve(upload, announced, deadline)
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except (asyncio.TimeoutError, TimeoutError) as error:
                raise Refused(408, f"the body did not arrive within {BODY_SECONDS:g} s") from error
            if message["type"] == "http.disconnect":
                raise Refused(408, "the client has disconnected")
            part = message.get("body", b"")
            request.received += len(part)
            if request.received > most:
                raise too_large
            await self._bodies.reserve(upload, request.received, deadline)
            upload.parts.append(part)
            if upload.evicted or not message.get("more_body", False):
                return upload.take()

    def _with_headers(self, request: _Request, send: Send) -> Send:
        """Add the security headers that an answer does not set itself."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                own = {name.lower() for name, _ in message["headers"]}
                extra = {**_HEADERS, "x-request-id": request.id}
                if self._service.draining:
                    extra["connection"] = "close"
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in extra.items() if k.encode() not in own),
                ]
                request.answered = time.monotonic()
            elif message["type"] == "http.response.body":
                request.sent += len(message.get("body", b""))
                allowed = READ_SECONDS + request.sent / READ_RATE
                if time.monotonic() - request.answered > allowed:
                    raise Refused(408, "the client does not read its answer")
            await send(message)

        return send_with_headers

    def _note(self, request: _Request) -> None:
        """Count the request and log it; successful probes are not logged."""
        seconds = time.perf_counter() - request.started
        method = request.scope["method"] if request.scope["method"] in _METHODS else "OTHER"
        # set by the router; the path template keeps the number of labels small
        route = getattr(request.scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, method, str(request.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if request.path in PROBES and request.status == 200:
            return
        self._log.write(
            {
                "id": request.id,
                "client": request.client,
                "method": method,
                "path": request.path[:200],
                "status": request.status,
                "ms": round(1000 * seconds, 1),
                "received": request.received,
                "sent": request.sent,
            }
        )


def _nothing() -> None:
    """For a request that holds nothing."""


def _without_body(receive: Receive) -> Receive:
    """A `receive` for routes: the body was read before, and then it waits like the original one."""
    handed_over = False

    async def received() -> Message:
        nonlocal handed_over
        if handed_over:
            return await receive()
        handed_over = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return received


async def _disconnected(receive: Receive) -> None:
    """Wait until the client has gone, or has its answer."""
    while (await receive())["type"] != "http.disconnect":
        continue


async def _send_problem(request: _Request, refused: Refused, send: Send, receive: Receive) -> None:
    """Send an error answer. If it closes the connection, first drop what the client is still sending.

    Clients send the whole body before they read: a connection that is closed meanwhile is reset, and they
    report that instead of the answer.
    """
    status, headers, body = problem(request.path, refused, request.id)
    pairs = [(k.encode(), v.encode()) for k, v in {**headers, "content-length": str(len(body))}.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if request.has_body and not request.working and status in (413, 421):
        with suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(_end_of_body(receive), DRAIN_SECONDS)
    await send({"type": "http.response.body", "body": b""})


async def _end_of_body(receive: Receive) -> None:
    """Read a body, and drop it."""
    while (message := await receive())["type"] != "http.disconnect" and message.get("more_body", False):
        continue
