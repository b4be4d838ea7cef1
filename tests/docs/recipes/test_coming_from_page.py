"""docs/coming-from.md: each cell of its tables, evaluated in transformers, timm and the reference.

One checkpoint with lively weights, read by all of them through our converters. Ours are the outputs that are
traced for a bundle, which the judge compares with the engine.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if find_spec("timm") is None or find_spec("transformers") is None:
    pytest.skip("needs timm and transformers", allow_module_level=True)

from dinodeploy.pipeline.pooling import pick, with_pooled  # noqa: E402
from dinov3_ref.checkpoints import Checkpoint, build_model, random_checkpoint, save_checkpoint  # noqa: E402
from dinov3_ref.checkpoints.layouts.official import PERIODS, rope_periods  # noqa: E402
from dinov3_ref.checkpoints.layouts.timm import TimmLayout  # noqa: E402
from dinov3_ref.torchvision_shim import import_torchvision  # noqa: E402
from exporters.trace.trace import TokenOutputs  # noqa: E402
from tests.parity.implementations import transformers_model  # noqa: E402
from tests.support.images.photographs import pixels  # noqa: E402
from tests.support.tiny_models import tiny_config  # noqa: E402

PAGE = (Path(__file__).parents[3] / "docs" / "coming-from.md").read_text(encoding="utf-8")
CLOSE = 5e-6  # relative Frobenius error; 1.0e-6 measured

Cell = tuple[str, str, str]  # our output, the library, its expression


def cells(kind: str) -> list[Cell]:
    """Each expression of the table after **kind**."""
    table = re.split(r"^\*\*", PAGE, flags=re.MULTILINE)
    (part,) = [one for one in table if one.startswith(f"{kind}**")]
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in part.splitlines() if row.startswith("|")
    ]
    header, _, *body = rows
    return [
        (row[0].strip("`"), library, expression)
        for row in body
        for library, cell in zip(header[1:], row[1:], strict=True)
        for expression in re.findall(r"`([^`]+)`", cell)
    ]


VIT, CONVNEXT = cells("ViT"), cells("ConvNeXt")


def reference_of(checkpoint: Checkpoint, x: Any) -> dict[str, Any]:
    """Our outputs by name, and the names that expressions of torch.hub use."""
    model = build_model(checkpoint)
    outputs = TokenOutputs(model, (1,))
    found = {name: one.numpy() for name, one in zip(outputs.output_names, outputs(x), strict=True)}
    ours = pick(found, with_pooled(tuple(found)))
    return {"ours": ours, "torch.hub": {"model": model, "features": model.forward_features(x)}}


@pytest.fixture(scope="module")
def x() -> Any:
    return pixels(("chelsea", "rocket"), 64, 96)


@pytest.fixture(scope="module")
def vit(x: Any) -> dict[str, Any]:
    import_torchvision()
    import timm

    checkpoint = random_checkpoint(tiny_config(), 0)
    periods = rope_periods(checkpoint.config, "fp32")  # which the libraries compute
    checkpoint = replace(checkpoint, state={**checkpoint.state, PERIODS: periods})
    sizes = {"depth": 3, "embed_dim": 128, "num_heads": 2}
    with torch.no_grad():
        theirs = transformers_model(checkpoint)
        model: Any = timm.create_model("vit_small_patch16_dinov3_qkvb", num_classes=0, **sizes).eval()
        model.load_state_dict(TimmLayout().from_official(checkpoint.state, checkpoint.config))
        return {
            **reference_of(checkpoint, x),
            "transformers": {"model": theirs, "outputs": theirs(x, output_hidden_states=True)},
            "timm": {"model": model, "tokens": model.forward_features(x)},
        }


@pytest.fixture(scope="module")
def convnext(x: Any) -> dict[str, Any]:
    import_torchvision()
    import timm
    from transformers import AutoModel

    from dinov3_ref.models.config import ConvNeXtConfig

    checkpoint = random_checkpoint(ConvNeXtConfig((1, 1, 2, 1), (96, 192, 384, 768)), 0)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for layout in ("hf", "timm"):
            save_checkpoint(checkpoint, layout, Path(folder) / layout)
        theirs = AutoModel.from_pretrained(Path(folder) / "hf").eval()
        model: Any = timm.create_model(f"local-dir:{folder}/timm", pretrained=True).eval()
        return {
            **reference_of(checkpoint, x),
            "transformers": {"model": theirs, "outputs": theirs(x, output_hidden_states=True)},
            "timm": {"model": model, "tokens": model.forward_features(x)},
        }


def error(cell: Cell, found: dict[str, Any], x: Any) -> float:
    """The difference of a cell's value and our output. Maps become [B,P,D] on both sides."""
    name, library, expression = cell
    with torch.no_grad():
        value = eval(expression, {"torch": torch, "x": x, **found[library]})
    if value.ndim == 4:  # [B,D,h,w]
        value = value.flatten(2).transpose(1, 2)
    ours = torch.from_numpy(found["ours"][name])
    ours = ours.flatten(1, 2) if ours.ndim == 4 else ours
    assert ours.shape == value.shape
    return float((ours - value).norm() / value.norm())


@pytest.mark.slow
@pytest.mark.parametrize("cell", VIT, ids=" ".join)
def test_vit(cell: Cell, vit: dict[str, Any], x: Any) -> None:
    assert error(cell, vit, x) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("cell", CONVNEXT, ids=" ".join)
def test_convnext(cell: Cell, convnext: dict[str, Any], x: Any) -> None:
    assert error(cell, convnext, x) < CLOSE


@pytest.mark.slow
def test_what_no_bundle_has(vit: dict[str, Any], x: Any) -> None:
    """The page says that these are before the norm."""
    for library, expression in (
        ("transformers", "outputs.hidden_states[2][:, 5:]"),
        ("timm", "model.forward_intermediates(x, indices=[1])[1][0]"),
    ):
        assert error(("layer_1", library, expression), vit, x) > 0.1


def test_the_tables_name_every_output() -> None:
    assert {name for name, _, _ in VIT} == {"cls", "storage", "patch", "mean_patch", "pooled", "layer_1"}
    assert {name for name, _, _ in CONVNEXT} == {"cls", "patch", "layer_1"}
    assert len(VIT) == 18
    assert len(CONVNEXT) == 12
