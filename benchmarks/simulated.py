"""A decoder and an engine that only wait: the feeding of many cores and a fast GPU, measured on two cores.

Both sleep, so neither holds the interpreter nor uses a core. What is left is what the pipeline itself costs.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.arrays import AnyArray
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.sources import FileSource

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIM = 384  # of CLS


@dataclass(frozen=True)
class SleepingDecoder(Preprocess):
    """Takes `seconds` for every image and writes the same pixels."""

    seconds: float = 0.0

    def __call__(self, image: Image.Image, out: AnyArray | None = None) -> AnyArray:
        due = time.perf_counter() + self.seconds
        pixels = super().__call__(image, out) if self.seconds == 0 else _filled(self, out)
        time.sleep(max(0.0, due - time.perf_counter()))
        return pixels


def _filled(preprocess: Preprocess, out: AnyArray | None) -> AnyArray:
    if out is None:
        out = np.empty(*preprocess.largest_input)
    out.fill(0)
    return out


class SleepingEngine:
    """Takes `seconds` per image, one batch at a time.

    marks: before each batch: images so far, time, CPU time of this process, bytes of batches that the
    pipeline put together by copying. handed: bytes of all batches so far.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.copied = self.handed = self.images = 0
        self.marks: list[tuple[int, float, float, int]] = []
        self.backend = SimpleNamespace(parallel_runs=1)

    def run(self, pixels: AnyArray) -> dict[str, AnyArray]:
        """An engine input -> CLS [B,DIM], all zeros."""
        due = time.perf_counter() + self.seconds * len(pixels)
        self.marks.append((self.images, time.perf_counter(), time.process_time(), self.copied))
        self.images += len(pixels)
        self.copied += pixels.nbytes if pixels.flags.owndata else 0
        self.handed += pixels.nbytes
        outputs = {"cls": np.zeros((len(pixels), DIM), np.float32)}
        time.sleep(max(0.0, due - time.perf_counter()))
        return outputs


def one_file(folder: Path, count: int) -> Any:
    """`count` ids of one tiny image: opening it costs next to nothing."""
    path = folder / "tiny.ppm"
    Image.new("RGB", (1, 1)).save(path)
    return FileSource([f"{number:07d}" for number in range(count)], paths=[str(path)] * count)
