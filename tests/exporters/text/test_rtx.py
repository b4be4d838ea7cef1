"""TensorRT-RTX parses and builds both graphs of a dino.txt bundle, without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import open_bundle
from tests.support.text.tiny_text import export_tiny_text

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")

# In a process of its own: TensorRT listens to a process's first logger only.
TEXT = """
import sys
from pathlib import Path
import tensorrt_rtx as trt
from exporters.tensorrt.messages import Messages, make_logger
from exporters.tensorrt.network import describe_network, parse_network

logger, messages = make_logger(trt), Messages()
logger.messages = messages
builder = trt.Builder(logger)
network, parser = parse_network(trt, builder, logger, messages, Path(sys.argv[1]) / "text.onnx")
(ids,), (embedding,) = describe_network(network)["inputs"], describe_network(network)["outputs"]
assert (ids["name"], ids["dtype"], ids["shape"]) == ("token_ids", "INT64", [-1, -1]), ids
assert (embedding["name"], embedding["shape"]) == ("text_embedding", [-1, 256]), embedding
config, profile = builder.create_builder_config(), builder.create_optimization_profile()
config.clear_flag(trt.BuilderFlag.TF32)
profile.set_shape("token_ids", (1, 2), (8, 77), (64, 77))
assert config.add_optimization_profile(profile) == 0
assert builder.build_serialized_network(network, config) is not None, messages.reason()
del network, parser
"""


IMAGE = """
import sys
from pathlib import Path
from exporters.tensorrt.add_engine import EngineRequest, add_engine
add_engine(Path(sys.argv[1]), EngineRequest("rtx"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp16", "int8"])
def test_both_graphs(tmp_path: Path, recipe: str) -> None:
    root = export_tiny_text(tmp_path / "bundle", recipe=recipe).root
    for program in (TEXT, IMAGE):
        run = subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    bundle = open_bundle(root)
    bundle.verify()
    (plan,) = [name for name, facts in bundle.manifest.engines.items() if facts.build is not None]
    assert bundle.manifest.text_engines.keys() == {"text.onnx", "text.cpu.onnx"}
    assert bundle.manifest.outputs_of(plan) == ("image_embedding", "patch_embedding")
