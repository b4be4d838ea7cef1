"""An engine as the model of an evaluation: ONNX Runtime beside the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinodeploy.embedder import Embedder
from dinov3_ref.checkpoints import random_checkpoint
from dinov3_ref.checkpoints.load import build_model
from dinov3_ref.errors import DataError
from dinov3_ref.eval.engine import EngineModel
from dinov3_ref.eval.features import FrozenModel
from tests.support.tiny_models import tiny_config


def engine(run: Any, *names: str) -> EngineModel:
    return EngineModel(run, names, (0.5,) * 3, (0.25,) * 3, 16, 4, 128)


def test_outputs_are_those_of_the_checkpoint(four_maps_bundle: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(depth=4), 0)
    model = FrozenModel(build_model(checkpoint), torch.device("cpu"), (), ())
    x = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    names = ["cls", "patch", "layer_3", "layer_1"]
    with Embedder.open(four_maps_bundle, device="cpu") as embedder:
        made = engine(embedder.run, *embedder.output_names).outputs(x, names)
    for name, expected in model.outputs(x, names).items():
        torch.testing.assert_close(made[name], expected, atol=2e-4, rtol=1e-3)


def test_an_output_that_the_engine_lacks() -> None:
    model = engine(
        lambda x: {"cls": np.ones((len(x), 128)), "patch": np.zeros((1, 2, 2, 128))}, "cls", "patch"
    )
    found = model.outputs(torch.zeros(1, 3, 32, 32), ["layer_3", "cls_3"])
    assert (found["layer_3"].shape, found["cls_3"].dtype) == ((1, 2, 2, 128), torch.float32)
    for name, words in (("layer_0", "export it with --layers 0"), ("cls_0", "give --weights instead")):
        with pytest.raises(DataError, match=rf"has no output {name}; it has cls, patch: {words}"):
            model.outputs(torch.zeros(1, 3, 32, 32), [name])
