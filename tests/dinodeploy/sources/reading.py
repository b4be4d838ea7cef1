"""Read all images of a source: pixels, or why there are none."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images.open import open_image
from dinodeploy.sources import Source, SourceOptions, open_source

Pixels = np.ndarray[Any, Any]

ALL = [  # of `write_folder("photos")`
    "photos/animate/astronaut.jpg",
    "photos/animate/deep/er/chelsea.jpg",
    "photos/still/china.jpg",
    "photos/still/coffee.jpg",
    "photos/still/deep/er/flower.jpg",
    "photos/still/deep/er/rocket.jpg",
]


def read_all(*inputs: object, **options: Any) -> dict[str, Pixels | str]:
    """id -> pixels, or the reason of a failure."""
    source = open_source([str(one) for one in inputs], SourceOptions(**options))
    try:
        return {id_: pixels_of(source, index) for index, id_ in enumerate(source.ids)}
    finally:
        source.close()


def read_by_threads(source: Source) -> list[Pixels | str]:
    """The same from eight threads in random order."""
    order = list(range(len(source.ids)))
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        seen = dict(zip(order, pool.map(lambda index: pixels_of(source, index), order), strict=True))
    return [seen[index] for index in range(len(order))]


def pixels_of(source: Source, index: int) -> Pixels | str:
    try:
        return np.asarray(open_image(source.image(index)))
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017  what cannot be opened is a result here
        return str(error)


def assert_same(seen: list[Any], wanted: list[Any]) -> None:
    for got, want in zip(seen, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def ids(*inputs: str, **options: Any) -> list[str]:
    return list(open_source(inputs, SourceOptions(**options)).ids)


def misuse(*inputs: str, **options: Any) -> str:
    """The one-line message of a MisuseError."""
    with pytest.raises(MisuseError) as caught:
        open_source(inputs, SourceOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)
