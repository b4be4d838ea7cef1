"""The fp32 graph of a model, before any recipe and without a bundle around it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx_ir as ir

from dinov3_ref.models import Backbone
from exporters.dialects import DIALECTS
from exporters.graph.graph import to_graph
from exporters.trace.fold import FOLDS, make_meta_copy
from exporters.trace.trace import TokenOutputs, trace


def graph_of(
    model: Backbone, *, folds: Collection[str] = FOLDS, every_block: bool = False, **outputs: Any
) -> ir.Model:
    """`outputs` are `TokenOutputs`'; `every_block` also traces repeated blocks."""
    meta_copy, weights = make_meta_copy(model, folds)
    module = TokenOutputs(meta_copy, **outputs)
    return to_graph(trace(module, every_block=every_block), module, weights, DIALECTS["portable"])
