"""Fetch an image by URL, protected against server-side request forgery (SSRF).

Only https, only port 443, only public addresses. The host name is resolved once, all its addresses are
checked, and the connection uses the checked address, which defeats DNS rebinding; the address at its other
end is checked again. Every redirect is checked in the same way. One deadline holds for everything, names, the
TLS handshake, headers and redirects included: a server that sends a byte a second does not extend it. Size is
limited. Answers of the remote server are never passed on to the client.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from dinodeploy.serve.refused import Refused

REDIRECTS = 3
TIME_LIMIT = 10.0  # seconds for one image, redirects included
_CHUNK = 1 << 16
_PORT = 443

Resolve = Callable[[str], list[str]]

# Networks in which an IPv6 address is never fetched, although Python calls some of them global: they contain
# IPv4 addresses, reach them through a translator, or are for documentation.
# https://www.iana.org/assignments/iana-ipv6-special-registry
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "2001::/23",  # IETF assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)
_UNICAST = ipaddress.ip_network("2000::/3")  # others are local, reserved, or translators: 64:ff9b::/96


class Connection(Protocol):
    """What `fetch` needs of `http.client.HTTPSConnection`; `abort` may be called from another thread."""

    def request(self, method: str, url: str, *, headers: dict[str, str]) -> None: ...
    def getresponse(self) -> http.client.HTTPResponse: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


Connect = Callable[[str, str, float], Connection]


def resolve(host: str) -> list[str]:
    """The addresses of a host name."""
    found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an address is public: not private, local, reserved, multicast, or IPv4 inside IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip not in _UNICAST or any(ip in network for network in _NOT_PUBLIC)
    ):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class _Pinned(http.client.HTTPSConnection):
    """Connects to a fixed address and verifies the certificate for the host name."""

    def __init__(self, host: str, address: str, timeout: float) -> None:
        context = ssl.create_default_context()
        super().__init__(host, _PORT, timeout=timeout, context=context)
        self._address, self._tls = address, context
        self._handle: socket.socket | None = None  # of the same connection, to end it from another thread

    def connect(self) -> None:
        plain = socket.create_connection((self._address, _PORT), self.timeout)
        try:
            if not is_public(str(plain.getpeername()[0])):
                raise OSError("connected to an address that is not public")
            self._handle = plain.dup()
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def abort(self) -> None:
        """End the connection; who waits for it gets an error or the end of the data."""
        if self._handle is not None:
            with suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        if self._handle is not None:
            self._handle.close()


def fetch(
    url: str,
    max_bytes: int,
    *,
    resolve: Resolve = resolve,
    connect: Connect = _Pinned,
    time_limit: float = TIME_LIMIT,
) -> bytes:
    """The bytes at `url`. Raises Refused: 422 if it is not allowed or fails, 413 past `max_bytes`."""
    deadline = time.monotonic() + time_limit
    too_slow = Refused(422, f"the URL took more than {time_limit:g} s; send the image file")
    try:
        for _ in range(REDIRECTS + 1):
            host, path, address = _check(url, partial(_within, deadline, resolve))
            connection = connect(host, address, max(0.1, deadline - time.monotonic()))
            clock = threading.Timer(deadline - time.monotonic(), connection.abort)
            clock.daemon = True
            clock.start()
            try:
                connection.request("GET", path, headers={"User-Agent": "dinodeploy", "Accept": "image/*"})
                response = connection.getresponse()
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.getheader("Location") or "")
                    continue
                if response.status != 200:
                    raise Refused(422, f"the URL's server answered {response.status}; wanted an image")
                data = _read(response, max_bytes)
                if time.monotonic() > deadline:  # the end of the data may be that of `abort`
                    raise too_slow
                return data
            finally:
                clock.cancel()
                connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() > deadline:
            raise too_slow from error
        raise Refused(422, "the URL cannot be fetched; send the image file") from error
    raise Refused(422, f"the URL redirects more than {REDIRECTS} times; use the final URL")


def _check(url: str, resolve: Resolve) -> tuple[str, str, str]:
    """(host, path, address) of a URL that is allowed. Raises Refused."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.port not in (None, _PORT):
        raise Refused(422, "only https:// URLs on port 443 without user name are allowed")
    addresses = resolve(parts.hostname)
    if not addresses or not all(map(is_public, addresses)):
        raise Refused(422, "the URL's host is not a public address; only public hosts are allowed")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or any(character <= " " for character in path):
        raise Refused(422, "the URL has characters that must be percent-encoded")
    return parts.hostname, path, addresses[0]


def _within(deadline: float, resolve: Resolve, host: str) -> list[str]:
    """`resolve(host)` in a thread that is left alone at the deadline: resolvers cannot be interrupted."""
    found: list[list[str]] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            found.append(resolve(host))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, name="resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError
    return found[0]


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise Refused(413, f"the URL's image has more than {max_bytes:,} bytes")
        parts.append(chunk)
    return b"".join(parts)
