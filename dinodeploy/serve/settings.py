"""`Settings`: options of a service, validated when created. Picklable, because workers receive them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.serve.access import Key
from dinodeploy.serve.decoders.formats import ACCEPTED
from dinodeploy.serve.limits.hosts import LOOPBACK

MIB = 1 << 20
BYTES_PER_PIXEL = 11  # of memory: a JPEG takes 4 to 10, a transparent PNG 9, AVIF 12, 16-bit grey 14, WebP 17


@dataclass(frozen=True)
class Settings:
    """Options of a service. Raises MisuseError for a number out of range.

    max_wait: seconds that an image waits for others before an unfilled batch runs. queue: most images that
    wait, and most open requests; at least one batch. max_bytes: of one request body. max_pixels: of one
    image. max_patches: of one model input. max_images: of one request. rate: requests per second from one
    client, None for no limit. time_limit: seconds for one request. linger: seconds that a stopping service
    still answers 503, so that a load balancer can notice. labels, templates: of /classify.

    max_answer: bytes of one answer. max_inflight: bytes of request bodies in memory, None
    for two of the largest. max_connections: of one
    process; fewer if the limit of file descriptors is lower. decode_seconds: CPU time, and decode_memory: MiB
    that decoding one image may take, None for what `max_pixels` needs. formats: of images that are accepted.
    allowed_hosts: what the Host header may name; `*` for anything. served_model_name: in /v1, None for the
    hub id of the weights, or the architecture.
    """

    bundle: str | Path
    device: str = "auto"
    threads: int | None = None
    weight_budget: int | None = None
    require_signature: Path | None = None
    allow_unverified: bool = False
    index: Path | None = None
    labels: Path | None = None
    templates: str = "imagenet"
    keys: tuple[Key, ...] = ()
    max_batch: int = 8
    max_wait: float = 0.005
    queue: int = 128
    max_bytes: int = 32 * MIB
    max_pixels: int = 50_000_000
    max_patches: int = 4096
    max_images: int = 64
    rate: float | None = None
    allow_urls: bool = False
    time_limit: float = 30.0
    linger: float = 1.0
    max_answer: int = 64 * MIB
    max_inflight: int | None = None
    max_connections: int = 512
    decode_seconds: int = 10
    decode_memory: int | None = None
    formats: tuple[str, ...] = ACCEPTED
    allowed_hosts: tuple[str, ...] = LOOPBACK
    served_model_name: str | None = None

    def __post_init__(self) -> None:
        positive = (
            *("max_batch", "queue", "max_bytes", "max_pixels", "max_images", "max_patches", "threads"),
            *("max_answer", "max_inflight", "max_connections", "decode_seconds", "decode_memory"),
        )
        for name, least in [*((name, 1) for name in positive), ("max_wait", 0), ("linger", 0)]:
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise MisuseError(f"{_option(name)} is {value}; wanted at least {least}")
        if self.queue < self.max_batch:
            raise MisuseError(
                f"--queue is {self.queue}; wanted at least one batch, {self.max_batch}, or a smaller "
                "--max-batch"
            )
        if self.max_inflight is not None and self.max_inflight < self.max_bytes:
            raise MisuseError(
                f"--max-inflight is {self.max_inflight}; wanted at least --max-bytes, {self.max_bytes}"
            )
        unknown = [name for name in self.formats if name not in ACCEPTED]
        if unknown or not self.formats:
            raise MisuseError(
                f"--formats: got {', '.join(self.formats) or 'none'}; wanted some of {', '.join(ACCEPTED)}"
            )
        given = self.served_model_name
        if given is not None and not re.fullmatch(r"[!-~]{1,200}", given):
            raise MisuseError(
                f"--served-model-name is {given[:60]!r}; wanted 1 to 200 ASCII characters without spaces"
            )
        for name in ("rate", "time_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise MisuseError(f"{_option(name)} is {value}; wanted more than 0")

    @property
    def inflight_bytes(self) -> int:
        """Bytes of request bodies in memory."""
        return 2 * self.max_bytes if self.max_inflight is None else self.max_inflight

    @property
    def decode_bytes(self) -> int:
        """Memory that decoding one image may take."""
        if self.decode_memory is not None:
            return self.decode_memory * MIB
        return 64 * MIB + BYTES_PER_PIXEL * self.max_pixels


def _option(name: str) -> str:
    return "--max-wait-ms" if name == "max_wait" else f"--{name.replace('_', '-')}"
