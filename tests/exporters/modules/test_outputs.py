"""Outputs get names: their keys, those that are asked for, or numbers."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from dinodeploy.errors import MisuseError
from exporters.modules.outputs import ChosenOutputs, names_of

ONE, TWO = torch.ones(1, 2), torch.zeros(1, 3)
Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("made", "asked", "names"),
    [
        (ONE, (), ("output",)),
        (ONE, ("logits",), ("logits",)),
        ((ONE, TWO), (), ("output_0", "output_1")),
        ({"boxes": ONE, "Scores": TWO}, (), ("boxes", "scores")),
        (OrderedDict(boxes=ONE, more=[TWO, TWO], none=None), (), ("boxes", "more_0", "more_1")),
        (Pair(ONE, TWO), (), ("left", "right")),
        ({"boxes": ONE, "scores": TWO}, ("scores",), ("scores",)),
        ({"boxes": ONE, "scores": TWO}, ("a", "b"), ("a", "b")),
    ],
)
def test_names(made: Any, asked: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert names_of(made, asked)[0] == names


@pytest.mark.parametrize(
    ("made", "asked", "complaint"),
    [
        (3, (), "returns a int; wanted a tensor"),
        ((ONE, TWO), ("a", "b", "c"), "returns 2 tensors"),
        ({"boxes": ONE, "scores": TWO}, ("masks",), r"boxes, scores"),
        ((ONE, TWO), ("a", "a"), "wanted distinct names"),
        (ONE, ("Boxes!",), "lower-case letters"),
    ],
)
def test_names_that_do_not_fit(made: Any, asked: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        names_of(made, asked)


def test_chosen_tensors_are_fp32() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"a": x, "label": x.argmax(1)}

    (label,) = ChosenOutputs(Net(), ("label",), (1,))(torch.tensor([[0.0, 1.0]]))
    assert label.dtype == torch.float32
    assert label.tolist() == [1.0]
