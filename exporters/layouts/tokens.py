"""Graphs with the names and shapes of transformers' DINOv3 models, and the way back for the judge.

    pixels -> cls, storage, patch      becomes      pixel_values -> last_hidden_state, pooler_output

Source: https://huggingface.co/docs/transformers/model_doc/dinov3: CLS, register tokens, patches row by row,
after the last norm; `pooler_output` is CLS. A ConvNeXt's CLS is the mean of its patches.
Shapes: B batch, R storage tokens, h w patch grid, D embed_dim, L = 1 + R + hw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dinodeploy.arrays import FloatArray
from exporters.graph.edit import Edit

PIXELS, TOKENS, POOLED = "pixel_values", "last_hidden_state", "pooler_output"
OURS = ("cls", "storage", "patch")


def rename_outputs(model: ir.Model) -> None:
    """Give a backbone's graph transformers' input and outputs, in place. Other outputs are left out."""
    graph = model.graph
    named = {str(value.name): value for value in graph.outputs}
    cls, patch = named["cls"], named["patch"]
    dim = cls.shape[-1] if cls.shape is not None else None
    edit = Edit(graph)
    row = edit.constant("const.token_axis", np.array([1], np.int64))
    flat = edit.constant("const.tokens", np.array([0, -1, dim], np.int64))
    parts = [
        _append(graph, "Unsqueeze", [cls, row], "tokens/first"),
        *([named["storage"]] if "storage" in named else []),
        _append(graph, "Reshape", [patch, flat], "tokens/patches"),
    ]
    tokens = _append(graph, "Concat", parts, TOKENS, axis=1)
    tokens.type, tokens.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "tokens", dim])
    cls.name = POOLED
    graph.outputs[:] = [tokens, cls]
    graph.inputs[0].name = PIXELS


def _append(graph: ir.Graph, operator: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Value:
    node = ir.node(operator, inputs, attributes=attributes, name=name)
    node.outputs[0].name = name
    graph.append(node)
    return node.outputs[0]


@dataclass(frozen=True)
class Split:
    """transformers' outputs -> the outputs that a bundle's golden cases have.

    storage: R. stride: pixels from one patch to the next.
    """

    storage: int
    stride: int

    def __call__(self, outputs: Mapping[str, FloatArray], pixels: FloatArray) -> dict[str, FloatArray]:
        """last_hidden_state [B,L,D] and pooler_output [B,D] of pixels [B,3,H,W] -> cls, storage, patch.

        The first token is `cls`, so that a `pooler_output` that is another vector cannot pass unseen: where
        they differ, `cls` is not finite.
        """
        tokens, pooled = outputs[TOKENS], outputs[POOLED]
        rows, columns = pixels.shape[2] // self.stride, pixels.shape[3] // self.stride
        same = tokens.shape[1] == 1 + self.storage + rows * columns and np.array_equal(tokens[:, 0], pooled)
        found = {"cls": pooled if same else np.full_like(pooled, np.nan)}
        if self.storage:
            found["storage"] = tokens[:, 1 : 1 + self.storage]
        patches = tokens[:, 1 + self.storage :]
        if same:
            found["patch"] = patches.reshape(len(patches), rows, columns, -1)
        return found
