"""TensorRT-RTX's compiled kernels on disk, so that only the first process compiles them.

The streams of an engine share one cache. A file holds the SHA-256 of the rest, then what TensorRT-RTX
serialised. A file that is damaged, or that TensorRT-RTX refuses (another version, GPU or driver), counts as
missing and is written again when the engine is closed; a cache that cannot be written costs time only.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from dinodeploy.bundle.manifest import BuildFacts
from dinodeploy.files import schema
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.cache import cache_dir
from dinodeploy.files.regular import read_regular

FOLDER = "tensorrt_rtx"
_HASH_BYTES = 32


class RuntimeCache:
    """The kernels of one plan on one GPU: read with its first context, written at the end if new."""

    def __init__(self, plan: Path, build: BuildFacts, runtime: str, device: str) -> None:
        parts = [plan.name, schema.dump(build), runtime, device]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        self.path = cache_dir(FOLDER) / f"{key[:32]}.cache"
        self._handle: Any = None
        self._stored = b""  # hash of what the file holds

    def attach(self, config: Any) -> None:
        """Let contexts made with `config`, an IRuntimeConfig, use the cache."""
        with suppress(RuntimeError):  # the binding's, of a failure inside TensorRT
            if self._handle is None:
                self._handle = config.create_runtime_cache()
                content = self._read()
                if content and not self._handle.deserialize(content):
                    self._stored = b""
            config.set_runtime_cache(self._handle)

    def _read(self) -> bytes:
        try:
            content = read_regular(self.path, follow=False)
        except OSError:
            return b""
        digest, rest = content[:_HASH_BYTES], content[_HASH_BYTES:]
        if hashlib.sha256(rest).digest() != digest:
            return b""
        self._stored = digest
        return rest

    def save(self) -> None:
        """Write the cache if it holds what its file does not. No context may be running."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        with suppress(OSError, RuntimeError):
            content = bytes(handle.serialize())
            digest = hashlib.sha256(content).digest()
            if digest == self._stored:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as file:
                file.write(digest + content)
