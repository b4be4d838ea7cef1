"""Options of `embed`, validated when created; `dinodeploy.embed` describes each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dinodeploy.backends import Hint
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.cluster import parse_address
from dinodeploy.pipeline.decode import TIME_LIMIT
from dinodeploy.pipeline.decoders import Decode, parse_decode
from dinodeploy.pipeline.pooling import needed
from dinodeploy.sources import SourceOptions
from dinodeploy.store.dtypes import parse_dtype
from dinodeploy.store.formats import open_format
from dinodeploy.store.update import Follow


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; `dinodeploy.embed` describes each. Validated when created: MisuseError."""

    out: Path
    outputs: tuple[str, ...] = ("cls",)
    source: SourceOptions = SourceOptions()  # noqa: RUF009 (frozen)
    device: str = "auto"
    imgsz: int | tuple[int, int] | None = None
    preprocess: str | None = None
    keep_aspect: bool = False
    max_patches: int | None = None
    fast_jpeg: bool = False
    format: str = "npy"
    dtype: str = "float32"
    normalize: bool = False
    shard_size: int | None = None
    part: tuple[int, int] = (1, 1)
    cluster: str | None = None
    batch: int | None = None
    threads: int | None = None
    weight_budget: int | None = None
    workers: int | None = None
    decode: Decode = "auto"
    time_limit: float = TIME_LIMIT
    limits: ImageLimits = DEFAULT_LIMITS
    require_signature: Path | None = None
    allow_unverified: bool = False
    overwrite: bool = False
    identify: Literal["stat", "hash"] = "stat"
    follow: Follow = Follow()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        for name in ("shard_size", "threads", "workers", "batch"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise MisuseError(f"{name} is {value!r}; wanted at least 1")
        parse_decode(self.decode)
        if not self.time_limit > 0:
            raise MisuseError(f"time_limit is {self.time_limit}; wanted more than 0 seconds")
        index, of = self.part
        if not 1 <= index <= of:
            raise MisuseError(f"shards {index}/{of}; wanted i/n, the i-th of n processes, for instance 1/4")
        if self.keep_aspect and self.preprocess not in (None, "keep-aspect"):
            raise MisuseError(
                f"keep_aspect and the preset {self.preprocess} exclude each other; give one of them"
            )
        if self.cluster is not None:
            parse_address(self.cluster)
            if self.part != (1, 1):
                raise MisuseError(
                    "cluster and shards exclude each other: a cluster distributes the shards itself"
                )
        if self.identify not in ("stat", "hash"):
            raise MisuseError(f"identify is {self.identify!r}; wanted stat or hash")
        self._check_follow()
        dtype, format = parse_dtype(self.dtype), open_format(self.format)
        if dtype not in format.dtypes:
            raise MisuseError(
                f"format {self.format}: got dtype {self.dtype}, its readers know only "
                f"{' and '.join(format.dtypes)}; use one of them, or format npy"
            )

    def _check_follow(self) -> None:
        """Raise MisuseError for options of an update that do not fit."""
        follow = self.follow
        if not follow.update and (follow.keep_missing or follow.retry_quarantined):
            raise MisuseError("keep_missing and retry_quarantined say how to update; pass update too")
        if follow.update and self.overwrite:
            raise MisuseError("update and overwrite exclude each other; give one of them")
        if follow.update and (self.cluster is not None or self.part != (1, 1)):
            raise MisuseError(
                "update runs in one process; leave cluster and shards out, or merge stores made apart"
            )

    @property
    def unit_length(self) -> bool:
        """Whether vectors are scaled to length 1."""
        return self.normalize or open_format(self.format).unit_length

    @property
    def engine_threads(self) -> int | None:
        """Threads of an engine; a worker of a cluster gets one unless told otherwise."""
        return self.threads or (1 if self.cluster is not None else None)

    def engine_options(self, hint: Hint) -> dict[str, Any]:
        """`Embedder.open`'s, the required signature aside."""
        return {
            "device": self.device,
            "outputs": needed(self.outputs),
            "allow_unverified": self.allow_unverified,
            "threads": self.engine_threads,
            "weight_budget": self.weight_budget,
            "hint": hint,
        }

    def steps(self, embedder: Embedder) -> Preprocess:
        """The bundle's preprocessing, with another preset, size or number of patches where asked."""
        ours = embedder.preprocess
        preset = "keep-aspect" if self.keep_aspect else self.preprocess
        if preset is not None and preset != ours.preset:
            size = (self.imgsz, self.imgsz) if isinstance(self.imgsz, int) else self.imgsz
            ours = ours.with_preset(preset, size)
        else:
            ours = embedder.preprocess_for(self.imgsz)
        if self.max_patches is not None:
            if ours.steps.fit != "keep-aspect":
                raise MisuseError("max_patches needs keep_aspect: otherwise all images have one size")
            ours = replace(ours, max_patches=self.max_patches)
        return replace(ours, jpeg="reduced" if self.fast_jpeg else "whole")
