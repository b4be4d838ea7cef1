"""Many strings in two arrays."""

from __future__ import annotations

import numpy as np
import pytest

from dinov3_ref.data.datasets.packed_text import PackedText


def test_packed_text_is_a_list_of_strings() -> None:
    texts = ["", "a.jpg", "größe/ü.png", "\udcff.jpg"]
    packed = PackedText(texts)
    assert [packed[index] for index in range(len(packed))] == texts
    assert isinstance(packed.bytes, np.ndarray)
    for index in (-1, 4):
        with pytest.raises(IndexError):
            packed[index]
