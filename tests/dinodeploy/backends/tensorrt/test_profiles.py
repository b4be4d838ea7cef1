"""Which profile takes an input, and how a batch is cut for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.backends.tensorrt.profiles import Profile, choose_profile, cut
from dinodeploy.errors import OutsideProfileError

SMALL = Profile(0, (1, 64, 64), (1, 224, 224), (8, 256, 256))
LARGE = Profile(1, (1, 64, 64), (8, 512, 512), (32, 1024, 768))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((1, 224, 240), 0),  # both take it; the first was tuned for it
        ((9, 224, 224), 1),  # only the second takes so many at once
        ((40, 64, 64), 1),  # neither does; the second is cut up less
        ((1, 1024, 768), 1),  # the very end
        ((1, 64, 64), 0),
    ],
)
def test_the_choice(shape: tuple[int, int, int], wanted: int) -> None:
    assert choose_profile((SMALL, LARGE), shape, Path("x.plan"), "tensorrt").index == wanted


@pytest.mark.parametrize("size", [(48, 64), (768, 1024), (1040, 64), (64, 784)])
def test_outside(size: tuple[int, int]) -> None:
    """Height and width are held apart: 1024x768 fits where 768x1024 does not."""
    with pytest.raises(OutsideProfileError) as caught:
        choose_profile((SMALL, LARGE), (1, *size), Path("b/x.plan"), "tensorrt")
    height, width = size
    assert f"input of {height}x{width} px is outside what x.plan was built for" in str(caught.value)
    low, high = (min(64, height), min(64, width)), (max(256, height), max(256, width))
    sizes = f"--imgsz {low[0]}x{low[1]}:224x224:{high[0]}x{high[1]}"
    assert f"dinodeploy build b --target tensorrt --name x --batch 1:1:8 {sizes} --overwrite" in str(
        caught.value
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("batch", "parts"), [(1, [(3, 1)]), (4, [(4, 4)]), (5, [(3, 3), (3, 2)]), (10, [(4, 4), (3, 3), (3, 3)])]
)
def test_parts_of_a_batch(batch: int, parts: list[tuple[int, int]]) -> None:
    """Rows keep their order; a part that is too small is filled up."""
    got = list(cut(batch, Profile(0, (3, 2, 2), (3, 2, 2), (4, 2, 2))))
    assert [(part.size, part.rows) for part in got] == parts
    assert [row for part in got for row in range(part.start, part.stop)] == list(range(batch))
