"""The image files of one prediction.

OUT/000001_NAME_classes.png    class ids as a palette image; 255 where the input showed nothing
OUT/000001_NAME_depth.png      millimetres in 16 bits; 0 where the input showed nothing
OUT/000001_NAME_segments.png   ids of objects and areas: R + 256 G + 65536 B, as COCO panoptic has them
OUT/000001_NAME_depth.tif      metres as float32 with the place on the map, where the image is a GeoTIFF
OUT/000001_NAME_overlay.jpg    the prediction drawn over the image, with a legend
OUT/000001_NAME_overlay.mp4    the same of every frame of a video
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.files.names import safe_stem
from dinodeploy.files.paths import native_path
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.open import open_image
from dinodeploy.sources import Source
from dinodeploy.tasks.dense import class_image, depth_image, segment_image
from dinodeploy.tasks.prediction import Prediction
from dinodeploy.tasks.results.draw import Legend, draw
from dinodeploy.tasks.results.geotiff import geo_tags, write_geotiff

MAPS, OVERLAYS = "maps", "overlays"
SAVE = (MAPS, OVERLAYS)
PAGED = 200  # images on a page; a browser shows them all together, each about 60 kB
PAGE_ITEM = "_page.json"  # ends the name of what the HTML page shows of one image
WRITTEN = re.compile(
    r"\d{6,}_[^/]*_(classes\.png|depth\.(png|tif)|segments\.png|overlay\.(jpg|mp4))", re.DOTALL
)
_FRAME = re.compile(r"(.+)#t=(\d+(?:\.\d+)?)", re.DOTALL)


def parse_save(save: Iterable[str] | None) -> frozenset[str] | None:
    """The kinds of files to write; None: the default. Raises MisuseError for an unknown one."""
    if save is None:
        return None
    kinds = frozenset(save) - {"none"}
    if unknown := sorted(kinds - set(SAVE)):
        raise MisuseError(f"--save {unknown[0]!r} is unknown; wanted {', '.join(SAVE)}, or none")
    return kinds


@dataclass(frozen=True)
class Frame:
    """Where a frame of a video belongs: the video's id and milliseconds after its start."""

    video: str
    milliseconds: int

    @classmethod
    def of(cls, id: str) -> Frame | None:
        """From the id of an image; None for one that is no frame of a video."""
        found = _FRAME.fullmatch(id)
        return cls(found[1], round(1000 * float(found[2]))) if found else None


class ReadAgain:
    """A source whose images are needed twice: for the engine, and to draw on.

    What is costly to read twice (frames, bytes of an archive or a URL) is kept until then.
    """

    def __init__(self, source: Source) -> None:
        self.ids = source.ids
        self._source = source
        self._kept: dict[int, bytes | Image.Image] = {}

    def image(self, index: int) -> str | Path | bytes | Image.Image:
        """The image, for the engine."""
        found = self._source.image(index)
        if not isinstance(found, (str, Path)):
            self._kept[index] = found
        return found

    def again(self, index: int) -> str | Path | bytes | Image.Image:
        """The same image, once."""
        kept = self._kept.pop(index, None)
        return self._source.image(index) if kept is None else kept

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True)
class ImageWriter:
    """Writes the files of a prediction. save: kinds of files; None: what suits the image and the task."""

    source: ReadAgain
    legend: Legend
    save: frozenset[str] | None = None
    paged: int = 0  # of the first so many images, also what the HTML page shows
    limits: ImageLimits = DEFAULT_LIMITS

    def write(self, folder: Path, position: int, id: str, found: Prediction) -> dict[str, str]:
        """Write the files of the image at `position` into `folder`: kind -> name.

        Raises ImageError if the image can no longer be read.
        """
        frame = Frame.of(id)
        wanted = self.save
        if wanted is None:
            wanted = frozenset(SAVE if frame is None else (OVERLAYS,))
            if frame is None and found.task in ("classify", "regress"):
                wanted = frozenset()
        stem = f"{position + 1:06d}_{safe_stem(id)}"
        is_paged = position < self.paged
        if not wanted and not is_paged:
            return {}
        original = self.source.again(position)
        names = _write_map(folder, stem, found, original) if MAPS in wanted else {}
        if OVERLAYS not in wanted and not is_paged:
            return names
        opened = native_path(original) if isinstance(original, str) else original
        image = open_image(opened, limits=self.limits)
        if is_paged:
            page_item = import_module("dinodeploy.tasks.results.page").page_item
            text = json.dumps(page_item(image, id, found, self.legend))
            (folder / f"{position + 1:06d}{PAGE_ITEM}").write_bytes(text.encode("ascii"))
        if OVERLAYS in wanted:
            names["overlay"] = f"{stem}_overlay.jpg"
            quality: dict[str, Any] = {"quality": 90} if frame is None else {"quality": 95, "subsampling": 0}
            draw(image, found, self.legend).save(folder / names["overlay"], **quality)
        return names


def _write_map(
    folder: Path, stem: str, found: Prediction, original: str | Path | bytes | Image.Image
) -> dict[str, str]:
    """Write the map of a prediction, if it has one: kind -> name."""
    if found.map is None:
        return {}
    if found.task == "segment":
        class_image(found.map).save(folder / f"{stem}_classes.png")
        return {"mask": f"{stem}_classes.png"}
    if found.task == "depth":
        depth_image(found.map).save(folder / f"{stem}_depth.png")
        names = {"depth": f"{stem}_depth.png"}
        if tags := geo_tags(original):
            names["geotiff"] = f"{stem}_depth.tif"
            write_geotiff(folder / names["geotiff"], found.map, tags)
        return names
    segment_image(found.map).save(folder / f"{stem}_segments.png")
    return {"segments": f"{stem}_segments.png"}
