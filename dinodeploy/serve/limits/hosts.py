"""Host names that a request may name in its Host header.

A web page of a foreign site can make a browser send requests to this machine under the page's own name (DNS
rebinding) and then read the answers. A name that is not ours is therefore refused. A numeric address is
nobody's name: a rebinding page cannot use one.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::", "")
EVERY = "*"


def hosts_for(host: str, extra: Iterable[str] = ()) -> tuple[str, ...]:
    """The names of a service that listens on `host`: loopback, `host`, `extra`.

    One that listens on all interfaces also answers to every address, written as `0.0.0.0`, and to the name of
    the machine.
    """
    own = ("0.0.0.0", socket.gethostname()) if host in WILDCARDS else (host,)
    return tuple(dict.fromkeys([*LOOPBACK, *own, *extra]))


class AllowedHosts:
    """The check of the Host header against a list of names."""

    def __init__(self, hosts: Iterable[str]) -> None:
        """hosts: names and addresses without port; `*` for all, `0.0.0.0` for all numeric addresses."""
        names = {_normal(host) for host in hosts}
        self._every = EVERY in names
        self._every_address = bool(names & {"0.0.0.0", "::"})
        self._names = names

    def allows(self, header: str | None) -> bool:
        """Whether a Host header is ours. HTTP/1.0 needs none."""
        if header is None or self._every:
            return True
        name = _without_port(header)
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._every_address or ("localhost" in self._names and address.is_loopback)


def _without_port(header: str) -> str:
    if header.startswith("["):
        name, end, port = header[1:].partition("]")
        if not end or port[:1] not in ("", ":"):
            return header
        port = port[1:]
    else:
        name, _, port = header.partition(":")
    return _normal(name) if not port or (port.isascii() and port.isdigit()) else header


def _normal(name: str) -> str:
    return name.strip().strip("[]").rstrip(".").lower()
