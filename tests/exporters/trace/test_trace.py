"""Named outputs equal those of the model's public methods; sizes stay dynamic in the program."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.checkpoints import build_model, random_checkpoint
from exporters.trace.fold import make_meta_copy
from exporters.trace.trace import TokenOutputs, trace
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config


@pytest.mark.parametrize("kind", ["mlp", "7b"])
@pytest.mark.parametrize("changes", [{}, {"n_storage_tokens": 0}, {"untie_cls_and_patch_norms": True}])
def test_outputs_equal_those_of_the_model(kind: str, changes: dict) -> None:
    torch.manual_seed(0)
    model = build_model(random_checkpoint(tiny_config(kind, **changes)))
    x = pixels(["rocket", "china"], 48, 80)
    module = TokenOutputs(model, layers=(0, 2))
    with torch.no_grad():
        outputs = dict(zip(module.output_names, module(x), strict=True))
        features = model.forward_features(x)
        layers = model.get_intermediate_layers(x, n=[0, 2], reshape=True, norm=True)
    assert torch.equal(outputs["cls"], features["x_norm_clstoken"])
    assert torch.equal(outputs["patch"].flatten(1, 2), features["x_norm_patchtokens"])
    assert ("storage" in outputs) == (model.n_storage_tokens > 0)
    if "storage" in outputs:
        assert torch.equal(outputs["storage"], features["x_storage_tokens"])
    for index, layer in zip((0, 2), layers, strict=True):
        assert torch.equal(outputs[f"layer_{index}"].permute(0, 3, 1, 2), layer)


def test_batch_height_and_width_stay_symbolic() -> None:
    meta_copy, _ = make_meta_copy(build_model(random_checkpoint(tiny_config(depth=1))))
    program = trace(TokenOutputs(meta_copy))
    (pixels_node,) = [
        node for node in program.graph.nodes if node.op == "placeholder" and node.name == "pixels"
    ]
    batch, channels, height, width = pixels_node.meta["val"].shape
    assert channels == 3
    assert all(isinstance(size, torch.SymInt) for size in (batch, height, width))
    assert {str(node.target) for node in program.graph.nodes} >= {
        "dinodeploy.rope_table.default",
        "dinodeploy.rope_attention.default",
    }
