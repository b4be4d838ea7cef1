"""Where a graph with free sizes is wrong or cannot be made, sizes are fixed if that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from dinodeploy.errors import ExportError
from exporters.modules import export_module
from tests.support.whole_models import AroundTransformers


class Specialises(AroundTransformers):
    """Uses the width as a Python number: the trace keeps the traced one."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"masks": super().forward(x)["masks"] * float(x.shape[-1])}


@pytest.mark.slow
def test_sizes_are_fixed_with_a_note(tmp_path: Path) -> None:
    bundle, notes = export_module(Specialises(), tmp_path / "bundle", imgsz=64)
    assert bundle.manifest.graph.fixed == ("height", "width")
    (note,) = (note for note in notes if "fixed" in note)
    assert note.startswith("height, width fixed: 64x64 (with free sizes: this model cannot be traced")


def test_or_refused_where_they_must_be_free(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the code fixes the image size"):
        export_module(Specialises(), tmp_path / "bundle", imgsz=64, dynamic=("batch", "height", "width"))
    assert not (tmp_path / "bundle").exists()
