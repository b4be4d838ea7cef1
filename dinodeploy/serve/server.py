"""One serving process: uvicorn, with a shutdown that loses no request.

On SIGTERM or Ctrl-C, open requests are finished. New requests get 503 with Retry-After for at least `linger`
seconds, so that a load balancer notices; then the process exits with 0. A second signal stops immediately. If
anything hangs, an engine for example, the process is ended with exit code 1.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import threading
import time
from types import FrameType

import uvicorn

from dinodeploy.errors import MisuseError, UnavailableError, reason_of
from dinodeploy.serve.app import create_app
from dinodeploy.serve.limits.connections import BACKLOG, IDLE_SECONDS, check_all, protocol_for
from dinodeploy.serve.limits.log import Log, LogHandler
from dinodeploy.serve.service import Service

QUEUE = 2048  # connections that the system queues until they are accepted
STOP_SLACK = 5.0  # seconds beyond the time limit of a request, after which open requests are given up
CLOSE_SLACK = 5.0  # seconds for closing the engine, after which the process ends anyway
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR = 2  # file descriptor
_POLL = 0.05  # seconds between checks for open requests


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: early connections are refused instead of left waiting.

    Raises MisuseError for an invalid host or port, UnavailableError for a port in use.
    """
    if not 0 <= port <= 65535:
        raise MisuseError(f"--port is {port}; wanted 0 to 65535, 0 for any free one")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise MisuseError(f"--host {host}: {reason_of(error)}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UnavailableError(f"--host {host} --port {port}: {error.strerror or error}") from error
    listener.set_inheritable(True)
    return listener


class Draining(uvicorn.Server):
    """A server that stops once no request is open, or the time limit of a request has passed.

    log: default: stderr. ends_process: the process ends with the server, and a signal ends it even if an
    engine, a search or a library hangs.
    """

    def __init__(self, service: Service, log: Log | None = None, *, ends_process: bool = False) -> None:
        self._log = log or Log()
        self._ends_process = ends_process
        super().__init__(
            uvicorn.Config(
                create_app(service, self._log),
                http=protocol_for(service.settings.max_connections),
                backlog=BACKLOG,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_keep_alive=round(IDLE_SECONDS),
                timeout_graceful_shutdown=round(service.settings.time_limit) + 1,
            )
        )
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for name in ("uvicorn.error", "asyncio"):
            logger = logging.getLogger(name)
            logger.handlers = [LogHandler(self._log)]
            logger.propagate = False
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)  # asyncio has set it to what it accepts in one go

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % 5 == 0:
            check_all(self.server_state.connections)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler of uvicorn. The signal is not raised again afterwards, so the exit code is 0."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
            self._end_within(CLOSE_SLACK)
            return
        self._service.draining = True
        settings = self._service.settings
        self._end_within(max(settings.linger, settings.time_limit) + STOP_SLACK + CLOSE_SLACK)
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _end_within(self, seconds: float) -> None:
        """End the process after `seconds`, if it still exists then."""
        if not self._ends_process:
            return

        def end() -> None:
            self._log.write({"error": f"not stopped within {seconds:g} s of a signal; the process is ended"})
            self._service.kill_decoders()
            os._exit(1)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        # a library that hangs may hold the interpreter's lock: this clock needs no lock
        faulthandler.dump_traceback_later(seconds + 1, exit=True, file=STDERR)

    def _drain(self) -> None:
        settings = self._service.settings
        started = time.monotonic()
        time.sleep(settings.linger)
        while self._service.active and time.monotonic() - started < settings.time_limit:
            time.sleep(_POLL)
        self.should_exit = True
        time.sleep(STOP_SLACK)
        self.force_exit = True


def serve_on(listener: socket.socket, service: Service, *, ends_process: bool = False) -> None:
    """Serve until a signal stops it; in a notebook, until the cell is interrupted.

    ends_process: as `Draining`'s.
    """
    server = Draining(service, ends_process=ends_process)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        server.run(sockets=[listener])
        return
    _serve_beside_a_loop(server, listener)


def _serve_beside_a_loop(server: Draining, listener: socket.socket) -> None:
    """In a thread with an event loop of its own: the caller's is running, as in a notebook."""
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="serve", daemon=True)
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, server.handle_exit) for number in _SIGNALS if is_main}
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
