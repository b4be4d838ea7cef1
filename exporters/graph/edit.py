"""Small edits of a graph: new nodes beside old ones, new constants, new lazily made weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Edit:
    """Edits one graph. Every made value is named after the node that makes it."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def before(
        self, node: ir.Node, operator: str, inputs: Sequence[ir.Value], name: str, **settings: Any
    ) -> ir.Value:
        """A new node ahead of `node`; returns its output. `settings`: attributes and `domain`."""
        made = _make(operator, inputs, name, **settings)
        self.graph.insert_before(node, made)
        return made.outputs[0]

    def replace(
        self, node: ir.Node, steps: Sequence[tuple[str, Sequence[ir.Value | None], str, dict[str, Any]]]
    ) -> None:
        """Put a chain of (operator, inputs, name, settings) after `node`; its users take the chain's output.

        None among the inputs stands for the output of the step before, at first the node's own.
        """
        users = list(node.outputs[0].uses())
        value, made = node.outputs[0], []
        for operator, inputs, name, settings in steps:
            step = _make(operator, [value if given is None else given for given in inputs], name, **settings)
            made.append(step)
            value = step.outputs[0]
        self.graph.insert_after(node, made)
        for user, index in users:
            user.replace_input_with(index, value)
        for place, output in enumerate(self.graph.outputs):
            if output is node.outputs[0]:
                value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), output.shape
                self.graph.outputs[place] = value

    def constant(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        """A constant of the graph; the same name and value give the same constant."""
        value, plain = np.asarray(array), name
        for number in itertools.count(2):  # two backbones may have two values of one name
            made = self.graph.initializers.get(name)
            if made is None:
                self._initializer(name, ir.tensor(value, name=name))
                break
            if made.const_value is not None and np.array_equal(made.const_value.numpy(), value):
                break
            name = f"{plain}.{number}"
        return self.graph.initializers[name]

    def weight(
        self, name: str, make: Callable[[], ir.TensorProtocol], dtype: ir.DataType, shape: Sequence[int]
    ) -> ir.Value:
        """A lazily computed weight; an existing one of this name is reused."""
        if name not in self.graph.initializers:
            tensor = ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(tuple(shape)), name=name)
            self._initializer(name, tensor)
        return self.graph.initializers[name]

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> None:
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.initializers.add(value)

    def drop_unused(self, value: ir.Value) -> None:
        """Remove an initializer that no node uses."""
        if not value.uses():
            self.graph.initializers.pop(str(value.name), None)


def _make(
    operator: str, inputs: Sequence[ir.Value], name: str, *, domain: str = "", **attributes: Any
) -> ir.Node:
    made = ir.node(operator, inputs, attributes=attributes, domain=domain, name=name)
    made.outputs[0].name = name
    return made
