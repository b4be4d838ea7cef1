"""Counting broken images."""

from __future__ import annotations

import pytest

from dinov3_ref.data.broken_images import BrokenImages
from dinov3_ref.errors import DataError


def test_the_limit_by_hand() -> None:
    counter = BrokenImages(max_fraction=0.1, grace=2)
    counter.record(10, ["a", "b", "c"])  # 3 <= 2 + 1
    with pytest.raises(DataError, match=r"5 images of 20 samples could not be read, more than 10\.0% plus 2"):
        counter.record(10, ["a", "d"])
    assert list(counter.messages) == ["a", "b", "c", "d"]
