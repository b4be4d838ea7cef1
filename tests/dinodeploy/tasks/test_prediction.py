"""Options of predictions, and names of classes."""

from __future__ import annotations

from typing import Any

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.tasks.prediction import Prediction, PredictOptions, class_name
from tests.support.head_facts import head_facts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "boxes"}, "--task 'boxes' is unknown; wanted semantic, instance or panoptic"),
        ({"top": 0}, "--top is 0; wanted at least 1"),
        ({"threshold": 1.5}, "--threshold is 1.5; wanted a number from 0 to 1"),
        ({"threshold": float("nan")}, "--threshold is nan"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        PredictOptions(**options)


def test_a_prediction_is_of_a_known_task() -> None:
    with pytest.raises(ValueError, match="wanted one of classify, segment"):
        Prediction("dream")


def test_a_class_without_a_name_is_its_number() -> None:
    assert class_name(head_facts("classify", classes=("cat", "cup")), 1) == "cup"
    assert class_name(head_facts("classify"), 1) == "1"
