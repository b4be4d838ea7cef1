"""A module that cannot be traced: one line names the line of the user's code, and what to change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from exporters.modules.explain import is_by_values, place_of, why_not_traced
from exporters.modules.trace import trace


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:  # decided here
            return x * 2
        return x


class Selects(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.flatten(1)[:, x[0].flatten().nonzero().squeeze(1)],)  # selected here


def test_the_line_is_named() -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (torch's own classes)
        trace(Branches(), 3, 16)
    words = why_not_traced(caught.value)
    assert "test_explain.py:" in words
    assert "if x.mean() > 0" in words
    assert "use torch.where" in words
    assert "\n" not in words
    assert is_by_values(caught.value)


def test_an_operator_is_found_in_the_program() -> None:
    program = trace(Selects(), 3, 16)
    place = place_of(program, "nonzero")
    assert place is not None
    assert "test_explain.py:" in place
    assert "nonzero()" in place
    assert place_of(program, "topk") is None


def test_other_errors_keep_their_words() -> None:
    assert why_not_traced(ValueError("odd")) == "ValueError: odd"
    assert not is_by_values(torch.cuda.OutOfMemoryError("full"))
