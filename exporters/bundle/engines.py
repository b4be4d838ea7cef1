"""Write the fp32 graph, under one recipe, as the files that runtimes load.

recipe      for GPUs                for CPUs
fp32        model.onnx              model.cpu.onnx cpu          where the model has attention; else model.onnx
fp16 bf16   model.onnx typed        model.cpu.onnx emulated
fp8         model.onnx QDQ          model.cpu.onnx emulated
int8        model.onnx QDQ          model.cpu.onnx cpu          the QDQ graph is judged by a CPU proxy graph
                                    model.cpu.vnni.onnx vnni    for CPUs with VNNI alone

Each has a CLS-only graph beside it where the model allows (`graph/cls_only.py`): model.cls.onnx,
model.cpu.cls.onnx, model.cpu.vnni.cls.onnx. All graphs share the weights in model.onnx.data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from dinodeploy.bundle.manifest import (
    CLS_ONLY,
    CLS_ONLY_OUTPUTS,
    CPU_FILE,
    GRAPH_BACKEND,
    MODEL_FILE,
    VNNI_FILE,
    WEIGHTS_FILE,
    EngineFacts,
)
from dinodeploy.bundle.text_facts import TEXT_CPU_FILE, TEXT_FILE, TEXT_OUTPUT, TEXT_WEIGHTS_FILE
from dinodeploy.hardware.instructions import VNNI
from exporters.graph.cls_only import cut_to_cls
from exporters.graph.files import share_weights, weight_bytes, write_onnx
from exporters.graph.fuse_attention import fuse_attention, has_rotary_attention
from exporters.graph.lint import Allowed, check_onnx, lint
from exporters.precision.apply_recipe import ONNXRUNTIME, RecipeInputs, Style, apply_recipe
from exporters.precision.recipes import FP32, Recipe

BASELINE_FILE = "model.fp32.onnx"  # the speed of int8 is measured against it
PROXY_FILE = "model.proxy.onnx"  # the typed graph in a form that a CPU can run, to judge it
BASELINE_LIMIT = 2**31  # bytes of fp32 weights past which no fp32 baseline is written


@dataclass(frozen=True)
class Names:
    """File names of the graphs of one input."""

    typed: str = MODEL_FILE
    cpu: str = CPU_FILE
    vnni: str | None = VNNI_FILE  # None: the CPU graph is for every CPU
    weights: str = WEIGHTS_FILE
    proxy: str = PROXY_FILE
    outputs: tuple[str, ...] = ()  # of every engine; empty: all of the manifest


IMAGE = Names()
TEXT = Names(TEXT_FILE, TEXT_CPU_FILE, None, TEXT_WEIGHTS_FILE, "text.proxy.onnx", (TEXT_OUTPUT,))


@dataclass(frozen=True)
class Written:
    """The engines that were written, and two graphs to use once and delete."""

    engines: dict[str, EngineFacts]
    proxy: Path | None = None
    baseline: Path | None = None


def write_engines(
    graph: ir.Model,
    recipe: Recipe,
    inputs: RecipeInputs,
    root: Path,
    *,
    last: int | None = None,
    allowed: Allowed | None = None,
    names: Names = IMAGE,
) -> Written:
    """Write `graph` under `recipe` into `root`. `graph` itself becomes the typed graph.

    `last` is the index of the block at which a CLS-only graph can be cut, None where it cannot. `allowed`:
    what lint lets pass.
    CPUs get a graph of their own: ONNX Runtime would run a typed 16-bit graph in fp32 there and hide an
    overflow (`precision/low_precision.py`), and it runs fp32 faster with operators that other runtimes do not
    know. Raises LintError.
    """
    low = bool(recipe.roles) or inputs.head_type != FP32
    styles = _styles(recipe, names, low=low, fused=has_rotary_attention(graph))
    inputs = replace(inputs, for_gpus=names.cpu in styles)
    sources = dict.fromkeys(styles, graph)
    if last is not None:
        cut = cut_to_cls(graph, last)
        cls_only = {name: styles[full] for name, full in CLS_ONLY.items() if full in styles}
        styles |= cls_only
        sources |= dict.fromkeys(cls_only, cut)
    baseline = None
    if names is IMAGE and recipe.quantized == "int8" and weight_bytes(graph) <= BASELINE_LIMIT:
        fp32 = graph.clone()
        fuse_attention(fp32)  # as this machine runs fp32 best
        baseline, _ = write_onnx(fp32, root / BASELINE_FILE)
    variants = {name: source.clone() for name, source in sources.items() if name != names.typed}
    apply_recipe(graph, recipe, "typed", inputs)
    if low:
        _inspect(graph, "typed", allowed)
    write_onnx(graph, root / names.typed)
    for name, variant in variants.items():
        apply_recipe(variant, recipe, styles[name], inputs)
        _inspect(variant, styles[name], allowed)
        share_weights(variant, root / names.typed, root / name)
    return Written(
        _describe(styles, names, low=low),
        proxy=root / names.proxy if names.proxy in styles else None,
        baseline=baseline,
    )


def _describe(styles: Mapping[str, Style], names: Names, *, low: bool) -> dict[str, EngineFacts]:
    """The manifest's entries."""
    engines: dict[str, EngineFacts] = {}
    if names.cpu in styles:
        engines[names.cpu] = EngineFacts("onnxruntime", (names.cpu, names.weights), outputs=names.outputs)
    if names.vnni is not None and names.vnni in styles:
        files = (names.vnni, names.weights)
        engines[names.vnni] = EngineFacts("onnxruntime", files, outputs=names.outputs, instructions=VNNI)
    # fp32 is fp32 on a CPU too, whichever graph is named
    backend = GRAPH_BACKEND if low else "onnxruntime"
    engines[names.typed] = EngineFacts(backend, (names.typed, names.weights), outputs=names.outputs)
    for name, full in CLS_ONLY.items():
        if name in styles:
            files = (name, names.weights)
            engines[name] = replace(
                engines[full], files=files, outputs=CLS_ONLY_OUTPUTS, same_numbers_as=full
            )
    return engines


def _styles(recipe: Recipe, names: Names, *, low: bool, fused: bool) -> dict[str, Style]:
    """File -> how the recipe is written in it.

    `low`: whether any layer is in low precision. `fused`: whether CPUs get an fp32 graph of their own.
    """
    if not low:
        return {names.typed: "typed", **({names.cpu: "cpu"} if fused else {})}
    if recipe.quantized == "int8":
        vnni: dict[str, Style] = {names.vnni: "vnni"} if names.vnni else {}
        return {names.typed: "typed", names.cpu: "cpu", **vnni, names.proxy: "emulated"}
    return {names.typed: "typed", names.cpu: "emulated"}


def _inspect(graph: ir.Model, style: Style, allowed: Allowed | None) -> None:
    lint(graph, style, allowed)
    if (
        style not in ONNXRUNTIME
    ):  # its operators are ONNX Runtime's own, which the official checker does not know
        check_onnx(graph)
