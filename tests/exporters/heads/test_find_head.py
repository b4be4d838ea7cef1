"""`--head`: a file, or a pyramid by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from exporters.heads.find_head import find_head, four_even


def test_a_pyramid_is_found_by_name(tmp_path: Path) -> None:
    assert find_head("pyramid:3,5,7,11", 64, 12, 16).head.inputs == (
        "layer_3",
        "layer_5",
        "layer_7",
        "layer_11",
    )
    assert find_head("pyramid", 64, 12, 16).head.inputs == ("layer_2", "layer_5", "layer_8", "layer_11")
    assert four_even(24) == (4, 11, 17, 23)
    assert four_even(40) == (9, 19, 29, 39)
    for text, message in (
        ("pyramid:1,2", "wanted four different blocks"),
        ("pyramid:a,b,c,d", "wanted four block numbers"),
    ):
        with pytest.raises(MisuseError, match=message):
            find_head(text, 64, 12, 16)
    with pytest.raises(MisuseError, match="takes four blocks, this model has 3"):
        find_head("pyramid", 64, 3, 16)
