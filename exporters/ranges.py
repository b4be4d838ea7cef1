"""Value ranges of a checkpoint on a user's images, for `dinodeploy ranges`.

images ─> official preprocessing ─> fp32 reference with dinov3_ref.ranges ─> ranges, a prediction per
precision
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import decode_ahead, default_decoders
from dinov3_ref.checkpoints import Checkpoint, build_model, normalization
from dinov3_ref.ranges import FP16_LARGEST, Prediction, Ranges, measure_ranges, predict

PRESET = "official"
BATCH = 4

Log = Callable[[str], None]


@dataclass(frozen=True)
class RangesReport:
    """The result of `dinodeploy ranges`."""

    arch: str
    source: str
    preprocess: Preprocess
    ranges: Ranges
    predictions: tuple[Prediction, ...]
    unreadable: tuple[tuple[str, str], ...]  # (id, reason)
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for the plot of `dinodeploy ranges`."""
        return {
            "arch": self.arch,
            "source": self.source,
            "imgsz": [self.preprocess.height, self.preprocess.width],
            "fp16_largest": FP16_LARGEST,
            "ranges": self.ranges.as_dict(),
            "predictions": [prediction.as_dict() for prediction in self.predictions],
            "unreadable": [{"id": id_, "reason": reason} for id_, reason in self.unreadable],
            "notes": list(self.notes),
        }


def checkpoint_ranges(
    checkpoint: Checkpoint,
    ids: Sequence[str],
    *,
    imgsz: tuple[int, int] | None = None,
    log: Log = lambda _: None,
) -> RangesReport:
    """Ranges of `checkpoint` over the images `ids`, at `imgsz` (H, W) or the preset's own size.

    Unreadable images are left out and listed in the report. Raises MisuseError for an impossible size, or if
    no image can be read.
    """
    mean, std = normalization(checkpoint)
    preprocess = Preprocess.from_preset(PRESET, imgsz, mean, std, checkpoint.config.stride)
    unreadable: list[tuple[str, str]] = []
    batches = _batches(ids, preprocess, unreadable, log)
    first = next(batches, None)
    if first is None:
        raise MisuseError(f"none of {len(ids)} images can be read; the first: {unreadable[0][1]}")
    known = checkpoint.dataset or checkpoint.mean
    assumed = () if known else ("input mean and std are ImageNet's: the file does not state them",)
    ranges = measure_ranges(build_model(checkpoint), chain([first], batches))
    return RangesReport(
        arch=checkpoint.arch,
        source=checkpoint.source,
        preprocess=preprocess,
        ranges=ranges,
        predictions=predict(ranges),
        unreadable=tuple(unreadable),
        notes=(*checkpoint.notes, *assumed),
    )


def spread_over(ids: Sequence[str], limit: int) -> list[str]:
    """At most `limit` of `ids`, evenly spaced: the first ids of a sorted list are all from one folder."""
    if len(ids) <= limit:
        return list(ids)
    return [ids[index * len(ids) // limit] for index in range(limit)]


def _batches(
    ids: Sequence[str], preprocess: Preprocess, unreadable: list[tuple[str, str]], log: Log
) -> Iterator[Tensor]:
    """Readable images in batches [B,3,H,W]; the others go to `unreadable` with their reason."""

    def read() -> Iterator[FloatArray]:
        for item in decode_ahead(ids, preprocess, default_decoders(), ahead=2 * BATCH):
            if item.pixels is None:
                unreadable.append((item.id, item.reason))
            else:
                yield item.pixels

    readable, done = read(), 0
    while batch := list(islice(readable, BATCH)):
        log(f"measuring images {done + 1} to {done + len(batch)} of {len(ids) - len(unreadable)}")
        done += len(batch)
        yield torch.from_numpy(np.stack(batch))
