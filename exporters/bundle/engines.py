"""From the fp32 graph to the files that runtimes load: one recipe, written for each of them.

fp32        model.onnx            model.cpu.onnx cpu          where it has attention; else model.onnx alone
fp16 bf16   model.onnx typed      model.cpu.onnx emulated     one file of weights, two graphs
fp8         model.onnx QDQ        model.cpu.onnx emulated     the same
int8        model.onnx QDQ        model.cpu.onnx cpu          the same; the QDQ graph is judged on its own

Each has a CLS-only graph beside it where the model allows (`graph/cls_only.py`): model.cls.onnx,
model.cpu.cls.onnx.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from dinodeploy.bundle.manifest import CLS_ONLY, CLS_ONLY_OUTPUTS, GRAPH_BACKEND, MODEL_FILE, EngineFacts
from exporters.graph.cls_only import cut_to_cls
from exporters.graph.fuse_attention import fuse_attention, has_rotary_attention
from exporters.graph.lint import check_onnx, lint
from exporters.graph.write import SINGLE_FILE_LIMIT, share_weights, weight_bytes, write_onnx
from exporters.precision.apply_recipe import RecipeInputs, Style, apply_recipe
from exporters.precision.recipes import Recipe

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
    graph: ir.Model,
    recipe: Recipe,
    inputs: RecipeInputs,
    root: Path,
    *,
    last: int | None = None,
    external_data: bool = False,
) -> Written:
    """Write `graph` under `recipe` into `root`. `graph` itself becomes the typed one.

    `last` is the index of the block at which a graph for CLS alone can be cut, None where it cannot.
    The CPU has an engine of its own: ONNX Runtime would run a typed 16-bit graph in fp32 there and hide an
    overflow (`narrow.py`), and it runs fp32 faster with operators that others do not know. Raises LintError.
    """
    styles = _styles(recipe, fused=has_rotary_attention(graph))
    sources = dict.fromkeys(styles, graph)
    if last is not None:
        cut = cut_to_cls(graph, last)
        cls_only = {name: styles[full] for name, full in CLS_ONLY.items() if full in styles}
        styles |= cls_only
        sources |= dict.fromkeys(cls_only, cut)
    yardstick = None
    if recipe.quantized == "int8" and weight_bytes(graph) <= SINGLE_FILE_LIMIT:
        yardstick = _write_yardstick(graph, root)
    variants = {name: source.clone() for name, source in sources.items() if name != MODEL_FILE}
    apply_recipe(graph, recipe, "typed", inputs)
    if recipe.roles:
        _inspect(graph, "typed")
    files = write_onnx(graph, root / MODEL_FILE, external_data=external_data or bool(recipe.roles))
    for name, variant in variants.items():
        apply_recipe(variant, recipe, styles[name], inputs)
        _inspect(variant, styles[name])
        share_weights(variant, root / MODEL_FILE, root / name)
    names = tuple(file.name for file in files)
    weights = names[1:] or names
    engines: dict[str, EngineFacts] = {}
    if CPU_FILE in styles:
        engines[CPU_FILE] = EngineFacts("onnxruntime", (CPU_FILE, *weights))
    # fp32 is fp32 on a CPU too, whichever graph is named
    engines[MODEL_FILE] = EngineFacts(GRAPH_BACKEND if recipe.roles else "onnxruntime", names)
    for name, full in CLS_ONLY.items():
        if name in styles:
            engines[name] = EngineFacts(
                engines[full].backend,
                (name, *engines[full].files),
                outputs=CLS_ONLY_OUTPUTS,
                same_numbers_as=full,
            )
    return Written(
        engines,
        witness=root / WITNESS_FILE if WITNESS_FILE in styles else None,
        yardstick=yardstick,
    )


def _write_yardstick(graph: ir.Model, root: Path) -> Path:
    """The graph in fp32, as this machine runs it best."""
    fp32 = graph.clone()
    fuse_attention(fp32)
    return write_onnx(fp32, root / YARDSTICK_FILE)[0]


def _styles(recipe: Recipe, *, fused: bool) -> dict[str, Style]:
    """File -> how the recipe is written in it; `fused`, whether fp32 has something of its own on a CPU."""
    if not recipe.roles:
        return {MODEL_FILE: "typed", **({CPU_FILE: "cpu"} if fused else {})}
    if recipe.quantized == "int8":
        return {MODEL_FILE: "typed", CPU_FILE: "cpu", WITNESS_FILE: "emulated"}
    return {MODEL_FILE: "typed", CPU_FILE: "emulated"}


def _inspect(graph: ir.Model, style: Style) -> None:
    lint(graph, style)
    if style != "cpu":  # its operators are ONNX Runtime's own, which the official checker does not know
        check_onnx(graph)
