"""A source of images: the protocol, the options, and what identifies its images beside their ids."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from dinodeploy.errors import ImageError, MisuseError


class Stamp(NamedTuple):
    """What shows that an image has changed: its size, and when the file that holds it was modified.

    size: bytes of the encoded image, in a table or video those of the whole file. mtime_ns: nanoseconds
    since 1970. None: unknown, as for remote and missing files.
    """

    size: int | None = None
    mtime_ns: int | None = None


class Source(Protocol):
    """Images by position, in a fixed order.

    A source may have more attributes, all optional:

        ids_are_locations   True where an id is the location of its image, so that equal ids mean one image
        origins             see `origins_of`
        origin(index)       see `origin_of`
        stamp(index)        see `stamp_of`
        skipped             see `skipped_of`
        reader(index)       how another process reads an image: its path, or a function that can be pickled
                            and returns, or raises, what `image` does; None or absent where none can
        release()           close files until the next image is asked for
        is_open             whether a file is open
        last_progress       when a slow read last got on, by `time.monotonic`: a time limit starts there
    """

    @property
    def ids(self) -> Sequence[str]:
        """The ids in order, without repeats."""
        ...

    def image(self, index: int) -> str | Path | bytes | Image.Image:
        """The image in a form that `images.open_image` takes: a path, an encoded file, or a PIL image.

        Thread-safe. Raises ImageError where there is no image; `embed` then quarantines it.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SourceOptions:
    """How to read inputs; an input ignores options of other kinds. Raises MisuseError for bad values."""

    column: str | None = None  # of a table: paths or images; None: found by name
    id_column: str | None = None  # of a table: ids; None: paths or row numbers
    every: int = 1  # of a video: use one frame in so many
    timeout: float = 60.0  # seconds for one remote read, retries included
    recursive: bool = True  # whether to read sub-folders

    def __post_init__(self) -> None:
        for name, value in (("column", self.column), ("id column", self.id_column)):
            if value is not None and not (isinstance(value, str) and value):
                raise MisuseError(f"{name}: got {value!r}, wanted the name of a column")
        if type(self.every) is not int or self.every < 1:
            raise MisuseError(f"every: got {self.every!r}, wanted a whole number of frames, at least 1")
        if not isinstance(self.timeout, (int, float)) or not 0 < self.timeout < math.inf:
            raise MisuseError(f"timeout: got {self.timeout!r}, wanted a positive number of seconds")


def origins_of(source: Source) -> Iterable[str]:
    """Where the images come from, as far as the ids do not tell: sources with equal ids may differ here.

    These are the paths of images whose ids a table gives, and for a table that holds images its name and
    their column (`table.parquet: thumbnail`), unless that column is the default and ids are row numbers.
    """
    origins: Iterable[str] = getattr(source, "origins", ())
    return origins


def skipped_of(source: Source) -> dict[str, Counter[str]]:
    """The files that folders and archives hold and that were left out: folder -> suffix -> number."""
    skipped: dict[str, Counter[str]] = getattr(source, "skipped", {})
    return skipped


def origin_of(source: Source, index: int) -> str:
    """Where an image comes from, as far as its id does not tell; empty where it does."""
    origin = getattr(source, "origin", None)
    if origin is not None:
        return str(origin(index))
    origins = getattr(source, "origins", ())
    return str(origins[index]) if len(origins) == len(source.ids) else "".join(origins)


def stamp_of(source: Source, index: int) -> Stamp:
    """The size and modification time of an image. Ask before reading it: a later change is then noticed.

    For an image file they are read now, for members of archives and tables they were read on opening.
    """
    stamp = getattr(source, "stamp", None)
    return stamp(index) if stamp is not None else Stamp()


def refuse(message: str) -> bytes:
    """The reader of an image that is known to be missing. Raises ImageError."""
    raise ImageError(message)
