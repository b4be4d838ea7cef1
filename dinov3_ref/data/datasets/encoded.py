"""Base class of image datasets: encoded images by index, decoded on access, with labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from dinov3_ref.data.decoding import decode_rgb
from dinov3_ref.errors import BrokenImage, DataError

UNLABELLED = -1


class EncodedImages(Dataset[tuple[Any, Any]], ABC):
    """`dataset[i]` is (transform(RGB image), target); without labels the target is ().

    labels: int64 [N] or None; class_names: names by class number. No file stays open between accesses, so
    workers may be forked or spawned. Raises `BrokenImage` on access, `DataError` on opening.
    """

    transform: Callable[[Image.Image], Any] | None = None
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError if it cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Where the image is stored, for messages."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = self.image(index)
        target = () if self.labels is None else int(self.labels[index])
        return (image if self.transform is None else self.transform(image)), target

    def image(self, index: int) -> Image.Image:
        """RGB image, upright, in its original size."""
        try:
            data = self.read(index)
        except OSError as error:
            raise BrokenImage(f"{self.name(index)!r} cannot be read: {error.strerror or error}") from error
        return decode_rgb(data, self.name(index))

    def set_labels(self, names: Sequence[str]) -> None:
        """Set the class of image i to names[i]."""
        self.labels, self.class_names = number_classes(names)


class ChosenImages(EncodedImages):
    """Some rows of a dataset, in the given order, with their labels and with a transform of their own."""

    def __init__(self, images: EncodedImages, rows: Sequence[int]) -> None:
        self.images, self.rows = images, np.array(rows, np.int64)
        self.transform, self.class_names = images.transform, images.class_names
        self.labels = None if images.labels is None else images.labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes:
        return self.images.read(int(self.rows[index]))

    def name(self, index: int) -> str:
        return self.images.name(int(self.rows[index]))


def number_classes(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class names of N images -> class numbers [N] and the sorted names; integers are sorted by value."""
    known = set(names)
    numeric = all(name.lstrip("-").isdecimal() for name in known)
    class_names = tuple(sorted(known, key=lambda name: (int(name) if numeric else 0, name)))
    number = {name: index for index, name in enumerate(class_names)}
    return np.array([number[name] for name in names], dtype=np.int64), class_names


def require_some(count: int, where: Path | str, wanted: str) -> None:
    """Raise `DataError` for an empty dataset."""
    if count == 0:
        raise DataError(f"no image in '{where}'; wanted {wanted}")


class PackedText:
    """A read-only sequence of strings."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self.ends):
            raise IndexError(f"string {index} of {len(self.ends)}")
        start = self.ends[index - 1] if index else 0
        return self.bytes[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")
