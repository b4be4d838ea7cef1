"""From the fp32 graph to the files that runtimes load: one recipe, written for each of them.

fp32        model.onnx                                        runs everywhere
fp16 bf16   model.onnx typed      model.cpu.onnx emulated     one file of weights, two graphs
fp8         model.onnx QDQ        model.cpu.onnx emulated     the same
int8        model.onnx QDQ        model.cpu.onnx rows         the same; the QDQ graph is judged on its own
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from dinodeploy.bundle import MODEL_FILE
from dinodeploy.manifest import EngineFacts
from exporters.apply_recipe import Facts, Style, apply_recipe
from exporters.lint import check_onnx, lint
from exporters.recipes import Recipe
from exporters.write_onnx import SINGLE_FILE_LIMIT, share_weights, weight_bytes, write_onnx

CPU_FILE = "model.cpu.onnx"
YARDSTICK_FILE = "model.fp32.onnx"  # what the speed of 8 bits is measured against
WITNESS_FILE = "model.witness.onnx"  # the typed graph as a CPU can judge it, where its own engine is another


@dataclass(frozen=True)
class Written:
    """What was written: engines for this machine's CPU, and files to use once and throw away."""

    engines: dict[str, EngineFacts]
    witness: Path | None = None
    yardstick: Path | None = None


def write_engines(
    graph: ir.Model, recipe: Recipe, facts: Facts, root: Path, *, external_data: bool = False
) -> Written:
    """Write `graph` under `recipe` into `root`. `graph` itself becomes the typed one.

    ONNX Runtime on a CPU would run a typed 16-bit graph in fp32 and hide an overflow (`narrow.py`), so the
    CPU has an engine of its own. Raises LintError.
    """
    if not recipe.roles:
        files = write_onnx(graph, root / MODEL_FILE, external_data=external_data)
        return Written({MODEL_FILE: EngineFacts("onnxruntime", tuple(file.name for file in files))})
    styles: dict[str, Style] = {CPU_FILE: "emulated"}
    yardstick = None
    if recipe.quantized == "int8":
        styles = {CPU_FILE: "rows", WITNESS_FILE: "emulated"}
        if weight_bytes(graph) <= SINGLE_FILE_LIMIT:
            yardstick = write_onnx(graph, root / YARDSTICK_FILE)[0]
    variants = {name: (graph.clone(), style) for name, style in styles.items()}
    apply_recipe(graph, recipe, "typed", facts)
    _inspect(graph, "typed")
    data = write_onnx(graph, root / MODEL_FILE, external_data=True)[1]
    for name, (variant, style) in variants.items():
        apply_recipe(variant, recipe, style, facts)
        _inspect(variant, style)
        share_weights(variant, root / MODEL_FILE, root / name)
    witness = root / WITNESS_FILE if WITNESS_FILE in variants else None
    return Written({CPU_FILE: EngineFacts("onnxruntime", (CPU_FILE, data.name))}, witness, yardstick)


def _inspect(graph: ir.Model, style: Style) -> None:
    lint(graph, style)
    if style != "rows":  # its operators are ONNX Runtime's own, which the official checker does not know
        check_onnx(graph)
