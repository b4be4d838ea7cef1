"""Python's start-up hook: every look-up of a host but this machine is written to $LOOKED_UP and fails."""

import os
import socket
from typing import Any

_LOCAL = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()}
_real = socket.getaddrinfo


def _refuse(host: Any, *rest: Any, **named: Any) -> Any:
    if host in _LOCAL:
        return _real(host, *rest, **named)
    with open(os.environ["LOOKED_UP"], "a") as file:  # noqa: PTH123
        file.write(f"{host}\n")
    raise socket.gaierror(f"no network here: {host}")


socket.getaddrinfo = _refuse
