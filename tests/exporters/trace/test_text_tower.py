from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from exporters.dialects import DIALECTS
from exporters.graph.graph import finish, tidy, translate
from exporters.trace.fold import FOLDS
from exporters.trace.text_tower import OUTPUT, TextOutputs, TracedTextTower, make_text_copy, trace_text
from tests.support.text.tiny_text import VOCAB_SIZE, tiny_dinotxt


def filled(copy_: TracedTextTower, weights: dict[str, object]) -> TracedTextTower:
    values = {name: make() for name, make in weights.items()}  # type: ignore[operator]
    copy_.load_state_dict(values, assign=True)
    return copy_


@pytest.mark.parametrize("folds", [FOLDS, ()])
def test_the_traced_tower_computes_the_towers_embeddings(folds: tuple[str, ...]) -> None:
    tower = tiny_dinotxt(text_layerscale=True).build().text_model
    traced = filled(*make_text_copy(tower, folds))
    ids = torch.randint(0, VOCAB_SIZE - 1, (4, 20), generator=torch.Generator().manual_seed(0))
    for row, end in enumerate((19, 1, 7, 12)):
        ids[row, end] = VOCAB_SIZE - 1
    ids[3, 5] = VOCAB_SIZE - 1  # the first of two counts
    with torch.inference_mode():
        assert torch.allclose(traced(ids), tower(ids), atol=2e-5)


def test_one_of_equal_blocks_is_traced_and_all_are_in_the_graph() -> None:
    tower = tiny_dinotxt().build().text_model
    meta_copy, weights = make_text_copy(tower, FOLDS)
    program = trace_text(TextOutputs(meta_copy))
    names = {str(node.target) for node in program.graph.nodes}
    assert sum(str(node.target).count("masked_attention") for node in program.graph.nodes) == 1, names
    graph = translate(program, DIALECTS["portable"], ("token_ids",), (OUTPUT,))
    tidy(graph, weights)
    finish(graph, DIALECTS["portable"])
    operators = [node.op_type for node in graph.graph]
    assert operators.count("Softmax") == 3
    assert operators.count("Where") == 1  # one mask for all blocks
    assert isinstance(graph, ir.Model)
