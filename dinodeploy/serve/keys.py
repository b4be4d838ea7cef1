"""API keys: a file of them, of which only hashes are kept in memory.

    # comment
    0f3a…                a key, at least 16 characters
    alice 9b1c…          a key with the name that stands in the log

Source: the comparison takes equally long wherever a guess goes wrong (`hmac.compare_digest`), and no key
that was given is ever logged.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import MisuseError

SHORTEST = 16  # characters


@dataclass(frozen=True)
class Key:
    """One key, by its SHA-256."""

    name: str
    digest: bytes


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file. Raises MisuseError, which never repeats one."""
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
        raise MisuseError(f"--api-key-file {path} has no key; write one a line: openssl rand -hex 32")
    return tuple(keys)


def find_key(keys: tuple[Key, ...], headers: Mapping[str, str]) -> Key | None:
    """The key in `Authorization: Bearer …` or `X-API-Key`, if it is one of ours."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    digest = _digest(given.strip())
    found = None
    for key in keys:  # all of them: how long it takes tells nothing
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
