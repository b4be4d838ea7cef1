"""The base class of whole models refuses impossible outputs."""

from __future__ import annotations

import pytest

from dinov3_ref.errors import ConfigError
from dinov3_ref.tasks import TaskModel


@pytest.mark.parametrize(
    ("task", "outputs", "complaint"),
    [
        ("guess", {"logits": ("batch", 3)}, "task is 'guess'"),
        ("detect", {}, "has no outputs"),
        ("detect", {"Boxes": ("batch", 4)}, "lower-case name"),
        ("detect", {"boxes": (1, 4)}, "'batch' as the first dimension"),
    ],
)
def test_an_impossible_model_is_refused(
    task: str, outputs: dict[str, tuple[int | str, ...]], complaint: str
) -> None:
    model = TaskModel()
    model.task, model.outputs = task, outputs
    with pytest.raises(ConfigError, match=complaint):
        model.check()
