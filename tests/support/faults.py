"""Faults planted in one block of an exported ONNX file, as a faulty exporter or runtime would cause them.

A block is named by its path: `blocks.2` of a ViT, `stages.2.0` of a ConvNeXt. Weights are found by their
names in the graph, whatever type a recipe stored them in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from dinodeploy.bundle.bundle import Bundle, EngineChoice, file_facts, open_bundle
from dinodeploy.bundle.manifest import write_manifest

Generator = np.random.Generator
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Fault = Callable[[ModelProto, str, Generator], None]

LINEARS = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.w1", "mlp.w2", "mlp.w3",
           "pwconv1", "pwconv2")  # fmt: skip
NORMS = ("norm1", "norm2", "norm")


def change_weight(model: ModelProto, prefix: str, change: Change) -> None:
    """Change the one initializer whose name starts so."""
    (tensor,) = (t for t in model.graph.initializer if t.name.startswith(prefix))
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(old.astype(np.float32)).astype(old.dtype), tensor.name))


def _one_of(model: ModelProto, block: str, layers: tuple[str, ...], rng: Generator) -> str:
    """Name of the weight of one of the block's layers."""
    names = [f"{block}.{layer}.weight" for layer in layers]
    present = [name for name in names if any(t.name.startswith(name) for t in model.graph.initializer)]
    return str(rng.choice(present))


def _linear_scaled(model: ModelProto, block: str, rng: Generator) -> None:
    change_weight(model, _one_of(model, block, LINEARS, rng), lambda weight: weight * np.float32(1.3))


def _columns_shuffled(model: ModelProto, block: str, rng: Generator) -> None:
    change_weight(model, _one_of(model, block, LINEARS, rng), lambda weight: rng.permutation(weight, axis=1))


def _gain_changed(model: ModelProto, block: str, rng: Generator) -> None:
    change_weight(model, _one_of(model, block, NORMS, rng), lambda gain: gain * np.float32(1.2))


def _one_nan(model: ModelProto, block: str, rng: Generator) -> None:
    def spoil(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        spoilt = weight.copy()
        spoilt.flat[rng.integers(weight.size)] = np.nan
        return spoilt

    change_weight(model, _one_of(model, block, LINEARS, rng), spoil)


def _block_skipped(model: ModelProto, block: str, rng: Generator) -> None:
    """Users of the block's output get its input instead."""
    sums = _residual(model, block)
    _rewire(model, sums[-1], sums[0])


def _branch_skipped(model: ModelProto, block: str, rng: Generator) -> None:
    """A residual addition is left out, of a ViT's that of attention or of the feed-forward layer."""
    sums = _residual(model, block)
    branch = int(rng.integers(1, len(sums)))
    _rewire(model, sums[branch], sums[branch - 1])


def _rewire(model: ModelProto, lost: str, kept: str) -> None:
    """Users of the value `lost` use `kept` instead."""
    for node in model.graph.node:
        node.input[:] = [kept if name == lost else name for name in node.input]


def _residual(model: ModelProto, block: str) -> list[str]:
    """The stream before a block, and after each addition to it."""
    sums = [
        node for node in model.graph.node if node.op_type == "Add" and node.name.partition("/")[0] == block
    ]
    return [str(sums[0].input[0]), *(str(node.output[0]) for node in sums)]


def _kernel_shifted(model: ModelProto, block: str, rng: Generator) -> None:
    """As padding on one side would: seen at every place, or with a small kernel at the edges alone."""
    change_weight(model, f"{block}.dwconv.weight", lambda kernel: np.roll(kernel, 1, axis=-1))


FAULTS: dict[str, Fault] = {
    "a linear's weight scaled": _linear_scaled,
    "a linear's columns shuffled": _columns_shuffled,
    "a LayerNorm's gain changed": _gain_changed,
    "one NaN in a weight": _one_nan,
    "the block skipped": _block_skipped,
    "one branch left out": _branch_skipped,
}
CONVNEXT_FAULTS = {**FAULTS, "a kernel shifted": _kernel_shifted}


def plant(engine: Path, fault: Fault, block: str, rng: Generator) -> None:
    """Break an engine file in place; external weights, if any, become internal."""
    model = onnx.load(engine)
    fault(model, block, rng)
    onnx.save(model, engine)


def broken(bundle: Bundle, fault: Fault, block: str, rng: Generator, folder: Path) -> EngineChoice:
    """The engine of a copy of a bundle in `folder`, with a fault; the manifest is not updated."""
    root = Path(shutil.copytree(bundle.root, folder / "broken"))
    plant(root / bundle.choose().file, fault, block, rng)
    return open_bundle(root).choose()


def reseal(root: Path) -> None:
    """Update the manifest to the broken files, as if they had been exported like this."""
    manifest = open_bundle(root).manifest
    files = {name: file_facts(root / name) for name in manifest.files}
    write_manifest(replace(manifest, files=files), root)
