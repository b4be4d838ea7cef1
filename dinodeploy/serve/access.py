"""API keys and rate limits: which client may send a request, and how often.

A key file has one key per line:

    # comment
    0f3a…                a key, at least 16 characters
    alice 9b1c…          a key with a name, which appears in the log

Only hashes of keys are kept in memory. Keys are compared in constant time (`hmac.compare_digest`), and a
key from a request is never logged.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import MisuseError

SHORTEST = 16  # characters of a key
CLIENTS = 10_000  # clients that a rate limit remembers; then the least recent one is dropped


@dataclass(frozen=True)
class Key:
    """One API key: the client's name and the SHA-256 of the key."""

    name: str
    digest: bytes


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a key file. Raises MisuseError, whose message never contains a key."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise MisuseError(f"--api-key-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MisuseError(f"--api-key-file {path}: not UTF-8 text") from error
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or len(words[-1]) < SHORTEST or not words[-1].isascii():
            raise MisuseError(
                f"--api-key-file {path}, line {number}: wanted [NAME] KEY, the key of at least {SHORTEST} "
                "ASCII characters; make one: openssl rand -hex 32"
            )
        name = words[0] if len(words) == 2 else f"key {len(keys) + 1}"
        keys.append(Key(name, _digest(words[-1])))
    if not keys:
        raise MisuseError(f"--api-key-file {path} has no key; write one per line: openssl rand -hex 32")
    return tuple(keys)


def find_key(keys: tuple[Key, ...], headers: Mapping[str, str]) -> Key | None:
    """The known key in `Authorization: Bearer …` or `X-API-Key`, or None."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    digest = _digest(given.strip())
    found = None
    for key in keys:  # compare all of them, so that the time taken reveals nothing
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class RateLimit:
    """Token bucket per client: `rate` requests per second, bursts of at most one second's worth."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._clock = clock
        # client -> tokens, time of the last request
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> int:
        """0 if the request is allowed, else the whole seconds until `client` may send the next one."""
        now = self._clock()
        tokens, then = self._clients.pop(client, (self._most, now))
        tokens = min(self._most, tokens + (now - then) * self._rate)
        allowed = tokens >= 1
        self._clients[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - tokens) / self._rate))
