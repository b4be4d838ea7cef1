"""Repeated blocks are traced once: the graph is byte for byte the one of tracing every block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
from torch import Tensor

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.layers import Mlp
from dinov3_ref.models import Backbone, DinoVisionTransformer
from dinov3_ref.models.config import ModelConfig
from exporters.graph.files import without_weights
from exporters.trace.fold import make_meta_copy
from exporters.trace.repeat import BLOCK_REPEAT, BLOCK_START, collapse_repeats
from exporters.trace.trace import TokenOutputs, trace
from tests.support.graphs import graph_of
from tests.support.tiny_models import tiny_config, tiny_convnext

DEPTH = 5
CASES: dict[str, tuple[ModelConfig, dict[str, Any]]] = {
    "plain": (tiny_config("mlp", depth=DEPTH), {}),
    "layers between": (tiny_config("7b", depth=DEPTH), {"layers": (1, 2)}),
    "attention of the last": (tiny_config("swiglu", depth=3), {"attention": True}),
    "one block": (tiny_config("mlp", depth=1), {}),
    "stages": (tiny_convnext(depths=(2, 1, 3, 2)), {"layers": (0, 2)}),
}


def as_bytes(graph: ir.Model) -> bytes:
    return without_weights(graph).SerializeToString(deterministic=True)


def assert_equal(model: Backbone, **options: Any) -> None:
    once, whole = graph_of(model, **options), graph_of(model, every_block=True, **options)
    assert as_bytes(once) == as_bytes(whole)
    stored, wanted = once.graph.initializers, whole.graph.initializers
    assert list(stored) == list(wanted), "the file's weights are in the same order"
    for name, value in stored.items():
        mine, other = value.const_value, wanted[name].const_value
        assert mine is not None
        assert other is not None
        assert mine.tobytes() == other.tobytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_graph_equals_that_of_every_block(case: str) -> None:
    config, options = CASES[case]
    assert_equal(build_model(random_checkpoint(config)), **options)


@pytest.mark.slow
def test_a_block_with_other_biases_is_traced_itself() -> None:
    """The third block's v has no bias to add, so its graph lacks an addition."""
    checkpoint = random_checkpoint(tiny_config("mlp", depth=DEPTH))
    bias = checkpoint.state["blocks.2.attn.qkv.bias"].clone()
    bias[-128:] = 0
    state = {**checkpoint.state, "blocks.2.attn.qkv.bias": bias}
    model = build_model(replace(checkpoint, state=state))
    assert traced_blocks(model) == [0, 2, 3]
    assert_equal(model)


class Gated(Mlp):
    """A user's own layer, whose behaviour is unknown."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


def test_a_users_own_layer_is_not_collapsed() -> None:
    model = build_model(random_checkpoint(tiny_config("mlp", depth=DEPTH)))
    assert isinstance(model, DinoVisionTransformer)
    assert traced_blocks(model) == [0]
    for index in (1, 2):
        own = Gated(128, 512)
        own.load_state_dict(model.blocks[index].mlp.state_dict())  # type: ignore[union-attr]
        model.blocks[index].mlp = own
    assert traced_blocks(model) == [0, 1, 2, 3]
    assert_equal(model)


class Early(DinoVisionTransformer):
    """A user's own loop over the blocks."""

    def run_blocks(self, *arguments: Any, **options: Any) -> Iterator[list[Tensor]]:
        yield from super().run_blocks(*arguments, **options)


def test_a_users_own_loop_over_the_blocks_is_traced_whole() -> None:
    model = Early(**tiny_config("mlp", depth=3).kwargs()).eval()
    assert traced_blocks(model) == [0, 1, 2]


def traced_blocks(model: Backbone) -> list[int]:
    """Indices of the blocks of a ViT that are traced, not replaced by a placeholder."""
    meta_copy, _ = make_meta_copy(model)
    assert isinstance(meta_copy, DinoVisionTransformer)
    with collapse_repeats(meta_copy):
        return [index for index, block in enumerate(meta_copy.blocks) if list(block.children())]


@pytest.mark.parametrize("case", ["layers between", "stages"])
def test_the_model_is_restored(case: str) -> None:
    config, options = CASES[case]
    meta_copy, _ = make_meta_copy(build_model(random_checkpoint(config)))
    modules = list(meta_copy.modules())
    module = TokenOutputs(meta_copy, **options)
    trace(module)
    assert all(one is other for one, other in zip(modules, meta_copy.modules(), strict=True))
    with pytest.raises(RuntimeError, match="on the way"), collapse_repeats(meta_copy):
        raise RuntimeError("on the way")
    assert all(one is other for one, other in zip(modules, meta_copy.modules(), strict=True))
    assert not any(one._forward_pre_hooks for one in modules)


def test_a_block_with_a_hook_is_traced_itself() -> None:
    """A hook may do anything."""
    meta_copy, _ = make_meta_copy(build_model(random_checkpoint(tiny_config("mlp", depth=3))))
    assert isinstance(meta_copy, DinoVisionTransformer)
    meta_copy.blocks[1].register_forward_hook(lambda *_: None)
    with collapse_repeats(meta_copy):
        assert all(list(block.children()) for block in meta_copy.blocks)


def test_a_finished_graph_has_no_placeholders() -> None:
    graph = graph_of(build_model(random_checkpoint(tiny_config("mlp", depth=DEPTH))))
    assert not {node.op_type for node in graph.graph} & {BLOCK_START, BLOCK_REPEAT}
    assert "dinodeploy" not in graph.opset_imports
