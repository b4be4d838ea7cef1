"""Append a head's graph to a backbone's: the head's inputs are backbone outputs, by name."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from dinodeploy.errors import MisuseError
from exporters.heads.trace_head import SCOPE


def merge(backbone: ir.Model, head: ir.Model, keep: Collection[str]) -> None:
    """Move `head` into `backbone`, in place. Only the backbone outputs in `keep` stay outputs.

    Raises MisuseError for a feature that is not an output of the backbone.
    """
    graph, added = backbone.graph, head.graph
    features = {str(output.name): output for output in graph.outputs}
    for value in added.inputs:
        if str(value.name) not in features:
            known = ", ".join(features)
            raise MisuseError(
                f"the head reads {value.name}, which is not an output of this graph; wanted one of {known}"
            )
    _make_distinct(added)
    for value in added.inputs:
        value.replace_all_uses_with(features[str(value.name)])
    outputs = list(added.outputs)
    added.outputs.clear()
    for name in list(added.initializers):
        graph.initializers.add(added.initializers.pop(name))
    for node in list(added):
        added.remove(node)
        graph.append(node)
    kept = [output for output in graph.outputs if output.name in keep]
    graph.outputs.clear()
    graph.outputs.extend((*kept, *outputs))


def _make_distinct(graph: ir.Graph) -> None:
    """Prefix the head's names: the exporter numbers names from zero in every graph."""
    for name in list(graph.initializers):
        if not name.startswith(SCOPE):
            value = graph.initializers.pop(name)
            value.name = f"{SCOPE}.{name}"
            graph.initializers.add(value)
    outputs = {value.name for value in graph.outputs}
    for node in graph:
        if not str(node.name).startswith(SCOPE):
            node.name = f"{SCOPE}.{node.name}"
        for value in node.outputs:
            if value.name not in outputs and not str(value.name).startswith(SCOPE):
                value.name = f"{SCOPE}.{value.name}"
