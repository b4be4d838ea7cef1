"""A user's own module becomes a judged bundle, and a fault in the exchange of its backbone does not pass.

Source of what is expected: docs/whole-models.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dinodeploy import Embedder
from dinodeploy.errors import JudgementError, MisuseError
from exporters.bundle.options import ExportOptions
from exporters.modules import export_module, module_from_factory
from exporters.modules.backbones import from_transformers
from tests.support.whole_models import AroundTimm, AroundTransformers, TinySegmenter

LIMIT = 1e-5  # measured 3e-7
SIZE = 64


def largest_error(root: Path, module: nn.Module, device: str = "onnxruntime") -> float:
    """Relative error of every output for two images of an off-square size."""
    pixels = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        made = module.eval()(pixels)
    with Embedder.open(root, device=device) as embedder:
        got = embedder.run(pixels.numpy())
    wanted = made if isinstance(made, dict) else {"output": made if isinstance(made, Tensor) else made[0]}
    return max(
        float(np.linalg.norm(got[name] - tensor.numpy()) / np.linalg.norm(tensor.numpy()))
        for name, tensor in wanted.items()
    )


SLOW = pytest.mark.slow


@pytest.mark.parametrize("make", [AroundTransformers, AroundTimm, pytest.param(TinySegmenter, marks=SLOW)])
def test_a_users_module_is_exported(make: Any, tmp_path: Path) -> None:
    module = make().train()
    bundle, notes = export_module(module, tmp_path / "bundle", imgsz=SIZE)
    assert bundle.manifest.graph.fixed == ()
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    assert {m.case for m in bundle.receipt.measurements} >= {"own_size", "tall", "wide"}
    assert notes[0].startswith("backbone: ")
    assert all(part.training for part in (module, module.decoder)), "its mode was changed"
    assert largest_error(bundle.root, module) < LIMIT


@SLOW
def test_two_backbones_and_openvino(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = AroundTransformers(), TinySegmenter(depth=1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"masks": self.first(x)["masks"], "others": self.second(x)[0]}

    module = Two().eval()
    bundle, _ = export_module(module, tmp_path / "bundle", imgsz=SIZE)
    assert bundle.manifest.graph.backbones == ("first.encoder.dinov3", "second.backbone")
    for device in ("onnxruntime", "openvino"):
        assert largest_error(bundle.root, module, device) < LIMIT


def test_fixed_sizes_are_refused_at_run_time(tmp_path: Path) -> None:
    class OneImageOneSize(AroundTransformers):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            tokens = self.encoder(x).last_hidden_state[:, 5:]
            return {"masks": self.decoder(tokens.transpose(1, 2).reshape(1, -1, 4, 4))}

    module = OneImageOneSize().eval()
    bundle, notes = export_module(module, tmp_path / "bundle", imgsz=SIZE)
    assert bundle.manifest.graph.fixed == ("batch", "height", "width")
    assert any("batch, height, width fixed" in note for note in notes)
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with Embedder.open(bundle.root, device="onnxruntime") as embedder, torch.inference_mode():
        got = embedder.run(pixels.numpy())["masks"]
        wanted = torch.cat([module(pixels[index : index + 1])["masks"] for index in range(2)]).numpy()
        assert np.abs(got - wanted).max() < 1e-4
        with pytest.raises(MisuseError, match="pixels are 96x64; this model takes 64x64 only"):
            embedder.run(np.zeros((1, 3, 96, 64), np.float32))


@pytest.mark.parametrize(
    "fault", ["period", pytest.param("skipped block", marks=SLOW), pytest.param("norm", marks=SLOW)]
)
def test_a_fault_in_the_exchange_is_rejected(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = from_transformers.build_backbone

    def wrong(*args: Any, **options: Any) -> Any:
        backbone: Any = build(*args, **options)
        if fault == "period":
            backbone.rope_embed.periods.mul_(1.01)
        elif fault == "skipped block":
            del backbone.blocks[1]
        else:
            norm = backbone.blocks[0].norm1
            norm.weight.data = norm.weight.data * 1.01  # not in place: the module has the same tensor
        return backbone

    monkeypatch.setattr(from_transformers, "build_backbone", wrong)
    with pytest.raises(JudgementError, match="head_error is"):
        export_module(
            AroundTransformers(), tmp_path / "bundle", imgsz=SIZE, dynamic=("batch", "height", "width")
        )
    assert not (tmp_path / "bundle").exists()


def test_a_factory_is_named_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_net.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(1, 1)\ndef broken():\n    return 3 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert isinstance(module_from_factory("my_net:build"), nn.Linear)
    assert sys.path == before
    for text, complaint in (
        ("my_net", "wanted package.file:factory"),
        ("my_net:absent", "AttributeError"),
        ("./nets/my_net.py:build", "wanted the module's name: nets.my_net:build"),
        ("no_such_net:build", "ModuleNotFoundError"),
        ("my_net:broken", "ZeroDivisionError: division by zero"),
        ("my_net:torch.nn.Linear", "TypeError"),
        ("math:tau.hex", "gave a str; wanted a torch.nn.Module"),
    ):
        with pytest.raises(MisuseError, match=complaint):
            module_from_factory(text)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"task": "guess"}, "task is 'guess'"),
        ({"dataset": "laion"}, "--dataset 'laion' is unknown"),
        ({"head_precision": "fp4"}, "head precision is 'fp4'"),
        ({"options": ExportOptions(input="uint8")}, "--input uint8 is for backbones; this is a whole model"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match=complaint):
        export_module(nn.Identity(), tmp_path / "bundle", **options)


@SLOW
def test_tensorrt_rtx_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
    from exporters.tensorrt.add_engine import EngineRequest, add_engine

    bundle, _ = export_module(
        AroundTransformers(), tmp_path / "bundle", imgsz=SIZE, recipe="fp16", head_precision="fp16"
    )
    built, _ = add_engine(bundle.root, EngineRequest(target="rtx", profile="edge"))
    assert (bundle.root / built.file).stat().st_size > 0


@SLOW
def test_a_product_in_fp16_may_be_an_output(tmp_path: Path) -> None:
    """The last convolution of this decoder is the graph's output, which stays fp32 under its own name."""
    module = AroundTimm()
    bundle, _ = export_module(module, tmp_path / "bundle", imgsz=SIZE, recipe="fp16", head_precision="fp16")
    assert largest_error(bundle.root, module) < 5e-3  # measured 5.7e-4


def test_it_is_a_name_of_the_package() -> None:
    import exporters

    assert exporters.export_module is export_module
    with pytest.raises(AttributeError, match="no attribute 'export_modul'"):
        _ = exporters.export_modul
