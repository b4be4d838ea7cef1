"""Whole models are traced with free sizes, or with those that are fixed."""

from __future__ import annotations

import pytest

from exporters.modules.trace import trace
from exporters.modules.whole import NamedOutputs, make_traced_copy
from tests.support.whole_models import TinySegmenter


@pytest.mark.parametrize(
    ("fixed", "free"), [((), 3), (("height", "width"), 1), (("batch", "height", "width"), 0)]
)
def test_sizes_are_free_or_fixed(fixed: tuple[str, ...], free: int) -> None:
    copied = make_traced_copy(TinySegmenter(depth=1).eval())
    program = trace(NamedOutputs(copied.module, ("segmentation",)), 3, 16, (64, 96), fixed=fixed)
    (pixels,) = [node for node in program.graph.nodes if node.op == "placeholder" and node.name == "pixels"]
    sizes = pixels.meta["val"].shape
    assert sum(not isinstance(size, int) for size in sizes) == free
