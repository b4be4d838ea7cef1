"""TensorRT's own parser and builder as witnesses: they take our graphs, batch and size free, without a GPU.

TensorRT-RTX is the TensorRT that can be installed from the package registry and builds ahead of time on
any machine. It is more permissive than TensorRT 10.3 (the lint covers that); running a plan needs a GPU.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from exporters.recipes import RECIPES
from tests.tiny import export_tiny

trt: ModuleType = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only"
)

PROFILE = ((1, 3, 64, 64), (4, 3, 256, 256), (8, 3, 768, 512))  # smallest, usual and largest input


@pytest.fixture(scope="module")
def logger() -> object:
    return trt.Logger(trt.Logger.ERROR)  # only the first logger of a process is used


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["mlp", "swiglu", "7b"])
def test_every_model_and_recipe_parses_and_builds(
    kind: str, recipe: str, tmp_path: Path, logger: object
) -> None:
    bundle = export_tiny(tmp_path / "b", kind, layers=(1,), recipe=recipe)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(bundle.root / "model.onnx"))
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    assert [network.get_input(index).name for index in range(network.num_inputs)] == ["pixels"]
    outputs = {
        network.get_output(i).name: tuple(network.get_output(i).shape) for i in range(network.num_outputs)
    }
    dim = bundle.manifest.model.embed_dim
    assert outputs == {
        "cls": (-1, dim),
        "storage": (-1, 4, dim),
        "patch": (-1, -1, -1, dim),
        "layer_1": (-1, -1, -1, dim),
    }
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("pixels", *PROFILE)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert plan.nbytes > 1_000_000
