"""Faults planted in one block of an exported ONNX file, as a bad export or a bad runtime would make them.

Weights are found by their names in the graph, whatever type a recipe stored them in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from dinodeploy.bundle import file_facts, open_bundle
from dinodeploy.manifest import write_manifest

Generator = np.random.Generator
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Fault = Callable[[ModelProto, int, Generator], None]

LINEARS = {
    "mlp": ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"),
    "swiglu": ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.w1", "mlp.w2", "mlp.w3"),
}


def change_weight(model: ModelProto, prefix: str, change: Change) -> None:
    """Change the one initializer whose name starts so."""
    (tensor,) = (t for t in model.graph.initializer if t.name.startswith(prefix))
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(old.astype(np.float32)).astype(old.dtype), tensor.name))


def _linear(model: ModelProto, block: int, rng: Generator) -> str:
    kind = "mlp" if any(".mlp.fc1." in t.name for t in model.graph.initializer) else "swiglu"
    return f"blocks.{block}.{rng.choice(LINEARS[kind])}.weight"


def _linear_scaled(model: ModelProto, block: int, rng: Generator) -> None:
    change_weight(model, _linear(model, block, rng), lambda weight: weight * np.float32(1.3))


def _columns_shuffled(model: ModelProto, block: int, rng: Generator) -> None:
    change_weight(model, _linear(model, block, rng), lambda weight: rng.permutation(weight, axis=1))


def _gain_changed(model: ModelProto, block: int, rng: Generator) -> None:
    norm = rng.choice(["norm1", "norm2"])
    change_weight(model, f"blocks.{block}.{norm}.weight", lambda gain: gain * np.float32(1.2))


def _one_nan(model: ModelProto, block: int, rng: Generator) -> None:
    def spoil(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        spoilt = weight.copy()
        spoilt.flat[rng.integers(weight.size)] = np.nan
        return spoilt

    change_weight(model, _linear(model, block, rng), spoil)


def _block_skipped(model: ModelProto, block: int, rng: Generator) -> None:
    """Whoever took what the block made takes what went into it."""
    before, _, second = _residual(model, block)
    _rewire(model, second, before)


def _branch_skipped(model: ModelProto, block: int, rng: Generator) -> None:
    """The residual addition of attention or of the feed-forward layer is left out."""
    before, first, second = _residual(model, block)
    _rewire(model, *((first, before) if rng.integers(2) else (second, first)))


def _rewire(model: ModelProto, lost: str, kept: str) -> None:
    """Whoever took `lost` takes `kept`."""
    for node in model.graph.node:
        node.input[:] = [kept if name == lost else name for name in node.input]


def _residual(model: ModelProto, block: int) -> tuple[str, str, str]:
    """The stream before a block, after its attention, and after its feed-forward layer."""
    first, second = (
        node
        for node in model.graph.node
        if node.op_type == "Add" and node.name.partition("/")[0] == f"blocks.{block}"
    )
    return str(first.input[0]), str(first.output[0]), str(second.output[0])


FAULTS: dict[str, Fault] = {
    "a linear's weight scaled": _linear_scaled,
    "a linear's columns shuffled": _columns_shuffled,
    "a LayerNorm's gain changed": _gain_changed,
    "one NaN in a weight": _one_nan,
    "the block skipped": _block_skipped,
    "one branch left out": _branch_skipped,
}


def plant(engine: Path, fault: Fault, block: int, rng: Generator) -> None:
    """Break an engine file in place; its external weights, if any, are taken into it."""
    model = onnx.load(engine)
    fault(model, block, rng)
    onnx.save(model, engine)


def reseal(root: Path) -> None:
    """Make the manifest agree with the broken files, as if they had been exported so."""
    manifest = open_bundle(root).manifest
    files = {name: file_facts(root / name) for name in manifest.files}
    write_manifest(replace(manifest, files=files), root)
