"""A source whose images change, and runs that follow it, for tests of updates."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.errors import ImageError
from dinodeploy.pipeline.pipeline import RunReport, embed_source
from dinodeploy.sources import Stamp, Stamps
from dinodeploy.store.manifest import StoreManifest, read_manifest
from dinodeploy.store.reader import load_embeddings
from dinodeploy.store.update import Changes, Follow
from dinodeploy.store.writer import Store
from tests.support.fake_engine import SMALL, embedder
from tests.support.stores import make_plan

BAD = 0  # version of an image that cannot be read
GONE = -1  # version of a listed image whose file is gone


class Versions:
    """Images by id, each of a colour that its id and version give. The version is also its time."""

    def __init__(
        self, versions: Mapping[str, int], sizes: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self.ids = list(versions)
        self._versions = dict(versions)
        self._sizes = sizes or {}
        self.opened: list[str] = []

    def image(self, index: int) -> Image.Image:
        id_ = self.ids[index]
        self.opened.append(id_)
        version = self._versions[id_]
        if version in (BAD, GONE):
            raise ImageError(f"{id_!r}: cannot be read")
        return Image.new("RGB", self._sizes.get(id_, (32, 16)), colour(id_, version))

    def stamp(self, index: int) -> Stamp:
        version = self._versions[self.ids[index]]
        return Stamp() if version == GONE else Stamp(100, version)

    def close(self) -> None: ...


def colour(id_: str, version: int) -> tuple[int, int, int]:
    number = zlib.crc32(f"{id_} {version}".encode())
    return number & 255, number >> 8 & 255, number >> 16 & 255


def follow(
    out: Path,
    source: Versions,
    *,
    content: bool = False,
    run: dict[str, Any] | None = None,
    engine: Any = None,
    options: Follow = Follow(update=True),  # noqa: B008 (frozen)
    **plan: Any,
) -> tuple[RunReport, StoreManifest, Changes]:
    """One run that follows `source`; `plan` are `Plan`'s options."""
    identity = "hash" if content else "stat"
    defaults = {"shard_size": 4, "outputs": ("cls", "patch"), "batch": 3, "identity": identity}
    stamps = Stamps(source, content=content, threads=1)
    with Store(out, make_plan(source.ids, **(defaults | plan)), stamps=stamps, follow=options) as store:
        report = embed_source(engine or embedder(), source, store, SMALL, **({"workers": 2} | (run or {})))
        manifest = store.finish()
        assert manifest is not None
        return report, manifest, store.changes


def anew(out: Path, source: Versions, **plan: Any) -> None:
    follow(out, source, options=Follow(), **plan)


def assert_same_rows(one: Path, other: Path) -> None:
    """Both stores load the same ids and numbers, bit for bit."""
    for output in read_manifest(one).outputs:
        (ids, rows), (wanted_ids, wanted) = load_embeddings(one, output), load_embeddings(other, output)
        assert ids == wanted_ids
        assert type(rows) is type(wanted)
        assert len(rows) == len(wanted)
        for row, right in zip(rows, wanted, strict=True):
            np.testing.assert_array_equal(row, right)
    assert read_manifest(one).outputs == read_manifest(other).outputs
    quarantine = [path / "quarantine.jsonl" for path in (one, other)]
    lines = [sorted(path.read_text().splitlines()) if path.exists() else [] for path in quarantine]
    assert lines[0] == lines[1]
