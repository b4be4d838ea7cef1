"""Where a whole model comes from, and which options fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dinodeploy.errors import MisuseError
from exporters.bundle.options import ExportOptions
from exporters.modules.source import export_whole

NOTHING: dict[str, Any] = {
    "module": None,
    "outputs": (),
    "dynamic": None,
    "task": None,
    "dataset": None,
    "others": {},
    "log": lambda text: None,
}


def export(weights: str = "hub", options: ExportOptions | None = None, **given: Any) -> Any:
    return export_whole(weights, None, options or ExportOptions(), **{**NOTHING, **given})


def test_a_backbone_is_left_to_its_own_export(tmp_path: Path) -> None:
    assert export("hub") is None
    assert export(str(tmp_path / "nothing.pth")) is None


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"outputs": ("masks",)}, "--outputs is for a module; add --module"),
        ({"dynamic": ("batch",)}, "--dynamic is for a module"),
        ({"options": ExportOptions(head_precision="fp16")}, "--head-precision is for whole models"),
        ({"module": nn.Identity(), "others": {"layers": (1,)}}, "--layers does not fit a module"),
        ({"module": nn.Identity(), "weights": "w.pth"}, "--weights does not fit a module"),
        ({"module": "no_such_package:build"}, "ModuleNotFoundError"),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        export(**given)
