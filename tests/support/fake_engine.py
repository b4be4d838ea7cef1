"""A fake engine and image source that cost nothing, for tests of everything around them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pipeline import RunReport, embed_source
from dinodeploy.store.manifest import StoreManifest
from dinodeploy.store.writer import Store
from tests.support.stores import make_plan

HALF = (0.5, 0.5, 0.5)
Size = Callable[[int], tuple[int, int]]
SMALL = Preprocess("official", 16, 32, HALF, HALF)


def engine(pixels: Any) -> dict[str, Any]:
    """[B,3,H,W] -> outputs of D = 3 by plain arithmetic: the outputs tell which image it was."""
    B, _, H, W = pixels.shape
    patch = pixels.reshape(B, 3, H // 16, 16, W // 16, 16).mean(axis=(3, 5)).transpose(0, 2, 3, 1)
    return {"cls": np.ascontiguousarray(pixels[:, :, 0, 0]), "patch": np.ascontiguousarray(patch)}


def embedder(run: Callable[[Any], dict[str, Any]] = engine, parallel_runs: int = 1) -> Any:
    """As much of an Embedder as the pipeline uses."""
    return SimpleNamespace(run=run, backend=SimpleNamespace(parallel_runs=parallel_runs))


class MadeUp:
    """Numbered images, each of its own colour. `bad` ones cannot be opened; `size` of the others."""

    def __init__(self, count: int, bad: Sequence[int] = (), size: Size = lambda index: (32, 16)) -> None:
        self.ids = [f"{index:06d}.png" for index in range(count)]
        self.opened: list[int] = []
        self._bad = frozenset(bad)
        self._size = size
        self._lock = threading.Lock()

    def image(self, index: int) -> Image.Image:
        with self._lock:
            self.opened.append(index)
        if index in self._bad:
            raise ImageError(f"{self.ids[index]!r}: made to be bad")
        return Image.new("RGB", self._size(index), (index % 256, index // 256 % 256, 7))

    def close(self) -> None: ...


def embed_all(
    source: Any, out: Path, *, part: tuple[int, int] = (1, 1), overwrite: bool = False, **options: Any
) -> tuple[RunReport, StoreManifest | None]:
    """One run over `source`; `options` are `Plan`'s, and `engine`, `preprocess`, `run` (`embed_source`'s)."""
    runner = options.pop("engine", None) or embedder()
    preprocess = options.pop("preprocess", SMALL)
    run = options.pop("run", {})
    plan = make_plan(source.ids, **({"shard_size": 4, "outputs": ("cls", "patch"), "batch": 3} | options))
    with Store(out, plan, part=part, overwrite=overwrite) as store:
        report = embed_source(runner, source, store, preprocess, **({"workers": 2} | run))
        return report, store.finish()


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root`, by its path."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
