"""Images in the cells of a table: one per row, or several where cells are lists.

bytes                          an encoded image
text                           an image in base64, or the path or URL of one
struct<bytes, path>            the bytes, or else the path, as Hugging Face `datasets` writes images
a list of any of these         several images; their ids are ROW#0, ROW#1, …
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.files.paths import native_path
from dinodeploy.images.base64_text import decode_base64, is_base64_image
from dinodeploy.sources import remote
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.source import SourceOptions, Stamp

_NO_IMAGE = "this row holds no image"


class Cells(Protocol):
    """The cells of one column, as Python values."""

    def cell(self, row: int) -> Any:
        """One cell. Thread-safe. Raises OSError, ValueError, StopIteration for one that cannot be read."""
        ...

    def release(self) -> None:
        """Close files until the next cell is asked for."""
        ...

    @property
    def is_open(self) -> bool: ...


@dataclass
class Places:
    """Where the images are whose cells are lists: row and position in it; -1 for a row without an image."""

    rows: array[int] = field(default_factory=lambda: array("Q"))
    parts: array[int] = field(default_factory=lambda: array("q"))


def spread(ids: Iterable[str], lengths: Iterable[int | None]) -> tuple[IdList, Places]:
    """Ids and places of the images of a column of lists. ids, lengths: of the rows."""
    spread_ids, places = IdList(), Places()
    for row, (id_, length) in enumerate(zip(ids, lengths, strict=True)):
        for part in range(length or 0):
            spread_ids.append(f"{id_}#{part}")
            places.rows.append(row)
            places.parts.append(part)
        if not length:
            spread_ids.append(id_)
            places.rows.append(row)
            places.parts.append(-1)
    return spread_ids, places


class TableSource:
    """The images in one column.

    beside: resolves a relative path that a cell holds. places: for a column of lists.
    """

    def __init__(
        self,
        cells: Cells,
        ids: Sequence[str],
        *,
        own_ids: bool,
        origins: Sequence[str],
        stamp: Stamp,
        beside: Callable[[str], str],
        places: Places | None = None,
        timeout: float = SourceOptions.timeout,
    ) -> None:
        self.ids = ids
        self.ids_are_locations = not own_ids
        self.origins = origins
        self._cells = cells
        self._stamp = stamp
        self._beside = beside
        self._places = places
        self._timeout = timeout

    def image(self, index: int) -> bytes | str:
        position = range(len(self.ids))[index]
        places = self._places
        row, part = (position, None) if places is None else (places.rows[position], places.parts[position])
        id_ = self.ids[position]
        if part == -1:
            raise ImageError(f"{id_!r}: {_NO_IMAGE}")
        try:
            cell = self._cells.cell(row)
            return self._image(cell if part is None else cell[part])
        except (OSError, ValueError, IndexError, TypeError, StopIteration) as error:
            reason = reason_of(error)  # ArrowInvalid is a ValueError
            said = reason if isinstance(error, _CellError) else f"cannot be read: {reason}"
            raise ImageError(f"{id_!r}: {said}") from error

    def _image(self, cell: Any) -> bytes | str:
        if isinstance(cell, dict):
            data = [value for value in cell.values() if isinstance(value, bytes)]
            cell = cell.get("bytes") or (data[0] if data else cell.get("path"))
        if isinstance(cell, (bytes, bytearray, memoryview)):
            return bytes(cell)
        if not isinstance(cell, str) or not cell.strip():
            raise _CellError(_NO_IMAGE)
        if is_base64_image(cell):
            return decode_base64(cell)
        path = cell.strip()
        return remote.fetch(path, self._timeout) if remote.is_url(path) else native_path(self._beside(path))

    def stamp(self, index: int) -> Stamp:
        return self._stamp

    @property
    def is_open(self) -> bool:
        return self._cells.is_open

    def release(self) -> None:
        """Close files; the next image opens them again."""
        self._cells.release()

    close = release


class _CellError(ValueError):
    """A cell that holds no image. The message says so."""
