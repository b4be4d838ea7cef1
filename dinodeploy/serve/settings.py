"""`Settings`: options of a service, validated when created. Picklable, because workers receive them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.serve.access import Key

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Options of a service. Raises MisuseError for a number out of range.

    max_wait: seconds that an image waits for others before an unfilled batch runs. queue: most images that
    wait, and most open requests; at least one batch. max_bytes: of one request body. max_pixels: of one
    image. max_patches: of one model input. max_images: of one request. rate: requests per second from one
    client, None for no limit. time_limit: seconds for one request. linger: seconds that a stopping service
    still answers 503, so that a load balancer can notice.
    """

    bundle: Path
    device: str = "auto"
    threads: int | None = None
    weight_budget: int | None = None
    require_signature: Path | None = None
    allow_unverified: bool = False
    index: Path | None = None
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

    def __post_init__(self) -> None:
        positive = ("max_batch", "queue", "max_bytes", "max_pixels", "max_images", "max_patches", "threads")
        for name, least in [*((name, 1) for name in positive), ("max_wait", 0), ("linger", 0)]:
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise MisuseError(f"{_option(name)} is {value}; wanted at least {least}")
        if self.queue < self.max_batch:
            raise MisuseError(
                f"--queue is {self.queue}; wanted at least one batch, {self.max_batch}, or a smaller "
                "--max-batch"
            )
        for name in ("rate", "time_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise MisuseError(f"{_option(name)} is {value}; wanted more than 0")


def _option(name: str) -> str:
    return "--max-wait-ms" if name == "max_wait" else f"--{name.replace('_', '-')}"
