"""Whole models are traced with free sizes, or with those that are fixed."""

from __future__ import annotations

import pytest

from exporters.modules.trace import enlarge, trace
from exporters.modules.whole import make_traced_copy
from tests.support.whole_models import TinySegmenter


def test_a_grid_grows_by_what_its_shorter_side_lacks() -> None:
    assert enlarge((7, 12), 8) == (8, 13)
    assert enlarge((16, 9), 8) == (16, 9)


@pytest.mark.parametrize(
    ("fixed", "free"), [((), 3), (("height", "width"), 1), (("batch", "height", "width"), 0)]
)
def test_sizes_are_free_or_fixed(fixed: tuple[str, ...], free: int) -> None:
    copied = make_traced_copy(TinySegmenter(depth=1).eval())
    program = trace(copied, ("segmentation",), 3, (64, 96), fixed)
    (pixels,) = [node for node in program.graph.nodes if node.op == "placeholder" and node.name == "pixels"]
    sizes = pixels.meta["val"].shape
    assert sum(not isinstance(size, int) for size in sizes) == free
