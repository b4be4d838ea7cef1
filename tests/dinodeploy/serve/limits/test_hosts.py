"""Host headers: ours, and those of a page that rebinds its name to this machine."""

from __future__ import annotations

import socket

import pytest

from dinodeploy.serve.limits.hosts import AllowedHosts, hosts_for

LOCAL = hosts_for("127.0.0.1")


@pytest.mark.parametrize(
    "header",
    [
        *("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:80", "127.1.2.3", "[::1]"),
        *("[::1]:8000", None),
    ],
)
def test_loopback_names(header: str | None) -> None:
    assert AllowedHosts(LOCAL).allows(header)


@pytest.mark.parametrize(
    "header",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", ":80"),
        *("localhost:evil", "[::1", "[::1]evil", "10.0.0.1", "localhost@evil.example", "2130706433"),
        *("192.168.1.5:8000", "[fe80::1]", "localhost,evil.example", "*"),
    ],
)
def test_foreign_names(header: str) -> None:
    assert not AllowedHosts(LOCAL).allows(header)


def test_the_host_option_and_more_names() -> None:
    allowed = AllowedHosts(hosts_for("10.0.0.7", ["Gpu.Example"]))
    assert all(map(allowed.allows, ("10.0.0.7:80", "gpu.example", "localhost")))
    assert not any(map(allowed.allows, ("10.0.0.8", "evil.example")))


def test_all_interfaces_answer_to_addresses_and_the_machine_but_to_no_other_name() -> None:
    allowed = AllowedHosts(hosts_for("0.0.0.0"))
    assert all(map(allowed.allows, ("10.0.0.7:80", "[2001:db8::1]", socket.gethostname())))
    assert not allowed.allows("evil.example")
    assert AllowedHosts(hosts_for("0.0.0.0", ["*"])).allows("evil.example")
