"""Weights by name: what does not fit together is refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from dinodeploy.errors import MisuseError
from exporters.bundle.source import load_source

NOTHING: dict[str, Any] = {"periods": None, "weights_key": None, "adapter": None}


def test_random_weights_have_a_seed() -> None:
    first, origin = load_source("random", "vit_small", None, 1, {}, **NOTHING)
    other, _ = load_source("random", "vit_small", None, 2, {}, **NOTHING)
    assert origin == "random"
    assert not first.state["cls_token"].equal(other.state["cls_token"])


@pytest.mark.parametrize(
    ("weights", "arch", "how", "words"),
    [
        ("hub", None, {}, "need an arch"),
        ("random", None, {}, "need an arch"),
        ("random", "vit_small", {"weights_key": "teacher"}, "is for a checkpoint file"),
        ("random", "vit_small", {"adapter": "lora"}, "needs the weights it was trained on"),
    ],
)
def test_refused(weights: str, arch: str | None, how: dict[str, Any], words: str) -> None:
    with pytest.raises(MisuseError, match=words):
        load_source(weights, arch, None, 0, {}, **{**NOTHING, **how})
