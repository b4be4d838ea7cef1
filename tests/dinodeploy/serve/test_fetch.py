"""Images by URL: only public https, whatever host names, redirects and servers try."""

from __future__ import annotations

import io
import socket
import threading
import time
from typing import Any

import pytest

from dinodeploy.serve.fetch import fetch, is_public
from dinodeploy.serve.refused import Refused

PUBLIC = "93.184.215.14"


class Response(io.BytesIO):
    def __init__(self, status: int = 200, body: bytes = b"image", location: str = "") -> None:
        super().__init__(body)
        self.status, self._location = status, location

    def getheader(self, name: str) -> str:
        return self._location


class Web:
    """Answers by URL, and the addresses that were connected to."""

    def __init__(self, addresses: dict[str, list[str]], answers: dict[str, Response]) -> None:
        self.addresses, self.answers = addresses, answers
        self.connected: list[str] = []

    def resolve(self, host: str) -> list[str]:
        return self.addresses[host]

    def connect(self, host: str, address: str, timeout: float) -> Any:
        self.connected.append(address)
        return Connection(self, host)

    def fetch(self, url: str, max_bytes: int = 100, **options: Any) -> bytes:
        return fetch(url, max_bytes, resolve=self.resolve, connect=self.connect, **options)


class Connection:
    def __init__(self, web: Web, host: str) -> None:
        self._web, self._host = web, host

    def request(self, method: str, path: str, headers: dict[str, str]) -> None:
        self._asked = f"{self._host}{path}"

    def getresponse(self) -> Response:
        return self._web.answers[self._asked]

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Dripping(Connection):
    """A server that sends a byte at a time until the connection is ended from outside."""

    def __init__(self, web: Web, host: str, where: str) -> None:
        super().__init__(web, host)
        self._where, self._ended = where, threading.Event()

    def _drip(self) -> None:
        if not self._ended.wait(20):
            raise AssertionError("the deadline did not end the connection")

    def getresponse(self) -> Any:
        if self._where == "headers":
            self._drip()
            raise ConnectionResetError("ended")
        response = Response()
        response.read1 = self._read  # type: ignore[method-assign]
        return response

    def _read(self, size: int | None = -1) -> bytes:
        if self._where == "body":
            self._drip()
        return b""

    def abort(self) -> None:
        self._ended.set()


def test_an_image_and_a_redirect() -> None:
    web = Web(
        {"a.org": [PUBLIC], "b.org": ["2606:2800:21f:cb07:6820:80da:af6b:8b2c"]},
        {"a.org/x?y=1": Response(302, location="https://b.org/z"), "b.org/z": Response(body=b"yes")},
    )
    assert web.fetch("https://a.org/x?y=1") == b"yes"
    assert web.connected == [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b::7f00:1", "not an address"),
        *("64:ff9b::1.1.1.1", "64:ff9b:1::7f00:1", "::ffff:1.1.1.1", "::127.0.0.1", "2002:101:101::1"),
        *("2001:0:5ef5:79fd::1", "fec0::1", "feff::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
        *("2001:10::1", "192.0.2.1", "198.18.0.1", "192.0.0.1", "240.0.0.1", "0.1.2.3", "ff0e::1", "4000::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    web = Web({"a.org": [PUBLIC, address]}, {})
    with pytest.raises(Refused, match="not a public address") as refused:
        web.fetch("https://a.org/")
    assert refused.value.status == 422
    assert web.connected == []


def test_public_addresses() -> None:
    assert all(map(is_public, (PUBLIC, "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1", "2400::1")))


def test_redirects_are_checked_too() -> None:
    web = Web(
        {"a.org": [PUBLIC], "inside.org": ["10.0.0.1"]},
        {
            "a.org/1": Response(302, location="https://inside.org/"),
            "a.org/2": Response(302, location="http://a.org/"),
            "a.org/3": Response(302, location="/3"),
            "a.org/4": Response(302, location="file:///etc/passwd"),
        },
    )
    for path, words in (
        ("1", "not a public"),
        ("2", "only https"),
        ("3", "redirects more"),
        ("4", "only https"),
    ):
        with pytest.raises(Refused, match=words):
            web.fetch(f"https://a.org/{path}")
    assert "10.0.0.1" not in web.connected


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://a.org/",
            "ftp://a.org/",
            "file:///etc/passwd",
            "https://",
            "https://a.org:22/",
            "a.org",
            "",
        ),
        *("https://u:p@a.org/", "https://a.org:x/", "https://[::1/", "https://a.org/a b\r\nHost: x"),
    ],
)
def test_urls_that_are_not_allowed(url: str) -> None:
    web = Web({"a.org": [PUBLIC]}, {})
    with pytest.raises(Refused):
        web.fetch(url)
    assert web.connected == []


def test_limits_of_size_and_time_and_error_answers() -> None:
    answers = {
        "a.org/large": Response(body=b"x" * 101),
        "a.org/gone": Response(404),
        "a.org/slow": Response(),
    }
    web = Web({"a.org": [PUBLIC]}, answers)
    with pytest.raises(Refused, match="more than 100 bytes") as refused:
        web.fetch("https://a.org/large")
    assert refused.value.status == 413
    with pytest.raises(Refused, match="answered 404"):
        web.fetch("https://a.org/gone")
    with pytest.raises(Refused, match="took more than"):
        web.fetch("https://a.org/slow", time_limit=-1.0)


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_server_that_drips_does_not_extend_the_deadline(where: str) -> None:
    web = Web({"a.org": [PUBLIC]}, {})
    before = time.monotonic()
    with pytest.raises(Refused, match=r"took more than 0\.3 s"):
        fetch(
            "https://a.org/",
            100,
            resolve=web.resolve,
            connect=lambda host, address, timeout: Dripping(web, host, where),
            time_limit=0.3,
        )
    assert time.monotonic() - before < 5


def test_a_name_that_takes_long_to_resolve_is_given_up() -> None:
    free = threading.Event()

    def slow(host: str) -> list[str]:
        free.wait(20)
        return [PUBLIC]

    before = time.monotonic()
    with pytest.raises(Refused, match="took more than"):
        fetch("https://a.org/", 100, resolve=slow, time_limit=0.2)
    assert time.monotonic() - before < 5
    free.set()


def test_the_address_at_the_other_end_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A translator or a changed route may lead elsewhere than the address that was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        real = socket.create_connection
        monkeypatch.setattr(
            socket, "create_connection", lambda address, timeout: real(server.getsockname(), timeout)
        )
        with pytest.raises(Refused, match="cannot be fetched"):
            fetch("https://a.org/", 100, resolve=lambda host: [PUBLIC], time_limit=5)
        server.settimeout(5)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(5)
            assert accepted.recv(10) == b""  # not even a TLS handshake


def test_connection_errors_are_not_revealed() -> None:
    def broken(host: str, address: str, timeout: float) -> Any:
        raise ConnectionRefusedError("10.1.2.3 port 443")

    with pytest.raises(Refused) as refused:
        fetch("https://a.org/", 100, resolve=lambda host: [PUBLIC], connect=broken)
    assert "10.1.2.3" not in refused.value.message
