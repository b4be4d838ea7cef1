"""Fetch an image by URL, protected against server-side request forgery (SSRF).

Only https, only port 443, only public addresses. The host name is resolved once, all its addresses are
checked, and the connection uses the checked address, which defeats DNS rebinding. Every redirect is checked
in the same way. Size and time are limited. Answers of the remote server are never passed on to the client.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from dinodeploy.serve.refused import Refused

REDIRECTS = 3
TIME_LIMIT = 10.0  # seconds for one image, redirects included
_CHUNK = 1 << 16
_PORT = 443

Resolve = Callable[[str], list[str]]
Connect = Callable[[str, str, float], http.client.HTTPSConnection]


def resolve(host: str) -> list[str]:
    """The addresses of a host name."""
    found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an address is public: not private, local, reserved or multicast, also when embedded in IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64: contains an IPv4 address
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


class _Pinned(http.client.HTTPSConnection):
    """Connects to a fixed address and verifies the certificate for the host name."""

    def __init__(self, host: str, address: str, timeout: float) -> None:
        context = ssl.create_default_context()
        super().__init__(host, _PORT, timeout=timeout, context=context)
        self._address, self._tls = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, _PORT), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


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
    try:
        for _ in range(REDIRECTS + 1):
            host, path, address = _check(url, resolve)
            connection = connect(host, address, max(0.1, deadline - time.monotonic()))
            try:
                connection.request("GET", path, headers={"User-Agent": "dinodeploy", "Accept": "image/*"})
                response = connection.getresponse()
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.getheader("Location") or "")
                    continue
                if response.status != 200:
                    raise Refused(422, f"the URL's server answered {response.status}; wanted an image")
                return _read(response, max_bytes, deadline, time_limit)
            finally:
                connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
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


def _read(response: http.client.HTTPResponse, max_bytes: int, deadline: float, time_limit: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise Refused(413, f"the URL's image has more than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise Refused(422, f"the URL took more than {time_limit:g} s; send the image file")
        parts.append(chunk)
    return b"".join(parts)
