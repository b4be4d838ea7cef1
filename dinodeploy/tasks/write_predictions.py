"""Write predictions to a directory: one JSON line per image, and image files of dense predictions.

OUT/predictions.jsonl         id and prediction
OUT/quarantine.jsonl          id and reason of every image that could not be read
OUT/000001_NAME_classes.png   class ids as a palette image; 255 where the input showed nothing
OUT/000001_NAME_overlay.jpg   the classes half transparent over the image
OUT/000001_NAME_depth.png     millimetres in 16 bits; 0 where the input showed nothing
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from dinodeploy.errors import OutputExistsError
from dinodeploy.files.atomic import begin_directory, commit_directory, discard_directory
from dinodeploy.files.names import safe_stem
from dinodeploy.files.owned import first_foreign
from dinodeploy.files.paths import native_path
from dinodeploy.files.system_files import is_free
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.open import open_image
from dinodeploy.tasks.dense import class_image, depth_image, overlay
from dinodeploy.tasks.predict import Predicted, Unread

TABLE = "predictions.jsonl"  # marks a directory as written by `predict`
QUARANTINE = "quarantine.jsonl"
_WRITTEN = re.compile(
    rf"{TABLE}|{QUARANTINE}|\d{{6,}}_[^/]*_(classes\.png|depth\.png|overlay\.jpg)", re.DOTALL
)


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse to replace anything but predictions, and these without `overwrite`. Raises OutputExistsError."""
    if is_free(out):
        return
    if not (out / TABLE).is_file():
        raise OutputExistsError(f"{out} exists and holds no {TABLE}; choose another --out")
    if foreign := first_foreign(out, _WRITTEN.fullmatch):
        raise OutputExistsError(
            f"{out} also holds {foreign!r}, so it is not replaced; move it, or choose another --out"
        )
    if not overwrite:
        raise OutputExistsError(f"{out} holds predictions already; give --overwrite or another --out")


class PredictionWriter:
    """Writes a directory atomically; with `out` None it only makes rows.

    A name that is not UTF-8 is written with JSON escapes of its bytes: \\udce9.
    """

    def __init__(self, out: Path | None, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self._out = out
        self._limits = limits
        self._count = 0

    def __enter__(self) -> PredictionWriter:
        if self._out is not None:
            self._root = begin_directory(self._out)
            self._table = (self._root / TABLE).open(
                "w", encoding="utf-8", errors="backslashreplace", newline="\n"
            )
            self._refused = (self._root / QUARANTINE).open(
                "w", encoding="utf-8", errors="backslashreplace", newline="\n"
            )
        return self

    def add(self, item: Predicted) -> dict[str, Any]:
        """Write a prediction with its image files. Returns its row."""
        row: dict[str, Any] = {"id": item.id, **item.prediction.facts}
        if self._out is not None:
            if item.prediction.map is not None:
                row |= self._draw(item)
            self._table.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._count += 1
        return row

    def refuse(self, item: Unread) -> None:
        """Write an unreadable image and its reason."""
        if self._out is not None:
            self._refused.write(json.dumps({"id": item.id, "reason": item.reason}, ensure_ascii=False) + "\n")

    def _draw(self, item: Predicted) -> dict[str, str]:
        """Write image files: {kind: file name}. A number keeps equal names from two folders apart."""
        stem = f"{self._count:06d}_{safe_stem(item.id)}"
        found = item.prediction
        if found.task == "depth":
            depth_image(found.map).save(self._root / f"{stem}_depth.png")  # type: ignore[arg-type]
            return {"depth": f"{stem}_depth.png"}
        classes = class_image(found.map)  # type: ignore[arg-type]
        classes.save(self._root / f"{stem}_classes.png")
        image = open_image(native_path(item.id), limits=self._limits)
        overlay(image, classes.resize(image.size, Image.Resampling.NEAREST)).save(
            self._root / f"{stem}_overlay.jpg", quality=90
        )
        return {"mask": f"{stem}_classes.png", "overlay": f"{stem}_overlay.jpg"}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._out is None:
            return
        self._table.close()
        self._refused.close()
        if kind is not None:
            discard_directory(self._root)
        else:
            commit_directory(self._root, self._out)
