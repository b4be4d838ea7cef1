"""`dinodeploy export`: a checkpoint becomes a judged bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from dinodeploy.api import HUB, export_transformers
from dinodeploy.api import export as export_bundle
from dinodeploy.bundle.bundle import Bundle
from dinodeploy.bundle.layout import BUNDLE, LAYOUTS, TRANSFORMERS, TransformersFolder
from dinodeploy.cli.output import parse_list, parse_size, print_json, print_notes, say
from dinodeploy.errors import MisuseError
from dinodeploy.parity.measurement import Verdict

FP32 = "fp32"
PREDICTS = ("classify", "regress", "segment", "depth", "detect", "panoptic")  # tasks of `dinodeploy predict`
# what the last line tells, the first that was measured
FIGURES = {
    "relative_frobenius": "relative Frobenius error",
    "head_error": "error",
    "box_iou": "box IoU",
    "mask_iou": "mask IoU",
    "depth_error": "error of depths",
}
METRICS = ("relative_frobenius", "cosine", "patch_cosine_p01", "pixel_max", "head_error")


def export(
    arch: Annotated[
        str | None, typer.Option(help="vit_small, vit_large …, or a hub name. Default: read from the file.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Checkpoint file or directory, 'hub', or 'random' for trying things.")
    ] = HUB,
    out: Annotated[Path | None, typer.Option(help="Bundle to write. Default: ARCH-PRECISION.")] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="What to write: bundle, or transformers: a folder for transformers.js and optimum."
        ),
    ] = BUNDLE,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16, bf16, bf16-residual, int8 or fp8. --layout transformers: fp32,fp16,int8."
        ),
    ] = FP32,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="Same as --precision fp16.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Same as --precision bf16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Same as --precision int8.")] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="Same as --precision fp8.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Images that calibrate int8 and fp8. Default: six photographs.")
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="Maximum number of calibration images.")] = 128,
    calibration_seed: Annotated[int, typer.Option(help="Seed that picks them if there are more.")] = 0,
    override: Annotated[
        list[str] | None,
        typer.Option(help="Another type for layers: 'blocks.0.*=fp32'. Repeatable; the last match counts."),
    ] = None,
    imgsz: Annotated[str | None, typer.Option(help="Input size H or H,W. Default: the preset's.")] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(help="Preprocessing: official, hf, timm, eval, keep-aspect. Default: the model's own."),
    ] = None,
    input: Annotated[
        str,
        typer.Option(help="What the graph takes: float32 pixels, or uint8: a quarter of the bytes to a GPU."),
    ] = "float32",
    layers: Annotated[str | None, typer.Option(help="Blocks whose patch maps become outputs: 2,5,8.")] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Head to add: a file, pyramid:3,5,7,11, or none; of dino.txt with --vocab. "
            "Default: the weights' own."
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one per line. Default: from config.json.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="What the weights' classifier reads: cls, mean, cls_mean. Default: from the file."),
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Add an output: attention of CLS in the last block, per head.")
    ] = False,
    dataset: Annotated[
        str | None, typer.Option(help="Input mean and std: lvd1689m or sat493m. Default: from the weights.")
    ] = None,
    rope_periods: Annotated[
        str | None,
        typer.Option(
            help="RoPE periods where a layout has none: bf16 (as released), fp32 (as HF, timm). "
            "Default: bf16; fp32 for fine-tuned models of HF and timm."
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(help="Which model of the file, by dotted name: state_dict. Default: EMA if it has one."),
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option(help="dino.txt: the vocabulary file; adds a text graph. See --head.")
    ] = None,
    backbone_outputs: Annotated[
        bool, typer.Option("--backbone-outputs", help="dino.txt: also output the backbone's own tokens.")
    ] = False,
    adapter: Annotated[
        Path | None, typer.Option(help="PEFT adapter to merge into the weights: a LoRA or DoRA folder.")
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(help="Export your own torch module instead: package.file:factory. Runs that code."),
    ] = None,
    outputs: Annotated[str | None, typer.Option(help="Names of the module's outputs: masks,scores.")] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(help="Free sizes of the module: batch,height,width. Default: all that can be."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What predict does with the module: classify, segment, depth, …")
    ] = None,
    head_precision: Annotated[
        str, typer.Option(help="Precision of a whole model outside its backbone: fp32 or fp16.")
    ] = FP32,
    dialect: Annotated[str, typer.Option(help="ONNX dialect.")] = "portable",
    fold: Annotated[str, typer.Option(help="Folds to apply to the graph: all, none, or a list.")] = "all",
    external_data: Annotated[
        bool, typer.Option("--external-data", help="No effect: weights are always in model.onnx.data.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of --weights random.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use the hub's local cache only.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Also build a TensorRT engine: tensorrt or rtx. See dinodeploy build.")
    ] = None,
    no_engine: Annotated[
        bool, typer.Option("--no-engine", help="Build no TensorRT engine, even with TensorRT and a GPU.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a checkpoint into an ONNX bundle, judged on this machine against the fp32 reference."""
    if layout not in LAYOUTS:
        raise MisuseError(f"--layout {layout!r}; wanted {' or '.join(LAYOUTS)}")
    aliases = {"fp16": fp16, "bf16": bf16, "int8": int8, "fp8": fp8}
    several = parse_list(precision, "--precision") if layout == TRANSFORMERS else (precision,)
    precisions = _precisions(several, aliases)
    options: dict[str, Any] = {
        "arch": arch,
        "calibration": calibration,
        "calibration_images": calibration_images,
        "calibration_seed": calibration_seed,
        "override": tuple(_override(text) for text in override or ()),
        "imgsz": parse_size(imgsz),
        "preprocess": preprocess,
        "input": input,
        "layers": tuple(_number(name) for name in parse_list(layers, "--layers")) if layers else (),
        "head": head,
        "classes": classes or (),
        "pooling": pooling,
        "attention": attention,
        "dataset": dataset,
        "rope_periods": rope_periods,
        "weights_key": weights_key,
        "adapter": adapter,
        "vocab": vocab,
        "backbone_outputs": backbone_outputs,
        "module": module,
        "outputs": parse_list(outputs, "--outputs") if outputs else (),
        "dynamic": parse_list(dynamic, "--dynamic") if dynamic else None,
        "task": task,
        "head_precision": head_precision,
        "dialect": dialect,
        "fold": fold if fold in ("all", "none") else parse_list(fold, "--fold"),
        "seed": seed,
        "revision": revision,
        "offline": offline,
        "target": target,
        "no_engine": no_engine,
    }
    writing: dict[str, Any] = {"overwrite": overwrite, "progress": True}
    if layout == TRANSFORMERS:
        folder = export_transformers(weights, out, precision=precisions, **_given(options), **writing)
        print_notes(folder.notes)
        _print_folder(folder, as_json)
        return
    bundle = export_bundle(weights, out, precision=precisions[0], **options, **writing)
    print_notes(bundle.notes)
    _print(bundle, as_json)


def _precisions(named: Sequence[str], aliases: dict[str, bool]) -> tuple[str, ...]:
    """The precisions asked for, by name or by alias. Raises MisuseError for a name and another alias."""
    asked = {name for name, given in aliases.items() if given}
    plain = set(named) == {FP32}
    if len(asked) > 1 or (asked and not plain and asked != set(named)):
        raise MisuseError(f"got the precisions {', '.join(sorted(asked | set(named)))}; wanted one")
    return tuple(asked or named)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults, and fit a backbone alone."""
    defaults = {name: one.default for name, one in signature(export_bundle).parameters.items()}
    given = {name: value for name, value in options.items() if value != defaults[name]}
    if given.get("head") == "none":
        del given["head"]
    given.pop("no_engine", None)
    return given


def _print_folder(folder: TransformersFolder, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder.root), "graphs": [asdict(graph) for graph in folder.graphs]})
        return
    for graph in folder.graphs:
        say(
            f"{folder.root / graph.file}: {graph.precision}, {graph.bytes / 1e6:.1f} MB, judged on "
            f"{graph.runtime}: passed, relative Frobenius error {graph.relative_error:.2g}"
        )
    name = folder.root.name
    say(f"next: serve the folder, and in the browser: pipeline('image-feature-extraction', '{name}')")


def _override(text: str) -> tuple[str, str]:
    pattern, _, name = text.rpartition("=")
    return pattern, name


def _number(name: str) -> int:
    if not name.isdecimal():
        raise MisuseError(f"--layers: {name!r} is no block number; wanted for instance 2,5,8")
    return int(name)


def _print(bundle: Bundle, as_json: bool) -> None:
    manifest, receipt = bundle.manifest, bundle.receipt
    assert receipt is not None, "an export has one"
    model, head, recipe = manifest.model, manifest.head, manifest.graph.recipe
    verdict = Verdict(receipt.recipe, receipt.measurements)
    worst = {metric: verdict.worst(metric) for metric in METRICS}
    engine = next((name for name, facts in manifest.engines.items() if facts.build is not None), None)
    if as_json:
        print_json(
            {
                "bundle": str(bundle.root),
                "arch": model.arch,
                "weights": model.weights,
                "source": model.source,
                "precision": recipe,
                "head": head.kind if head else None,
                "files": {name: facts.bytes for name, facts in manifest.files.items()},
                "passed": receipt.passed,
                "runtime": receipt.runtime,
                "device": receipt.device,
                "worst": worst,
                "engine": engine,
                "notes": list(bundle.notes),
            }
        )
        return
    say(f"{bundle.root}: {model.arch}, {recipe}, weights {model.weights} ({model.source})")
    if head is not None:
        say(f"head: {head.kind} ({head.source}), outputs {', '.join(head.outputs)}")
    figures = ((words, verdict.worst(metric)) for metric, words in FIGURES.items())
    told = next((f", {words} {value:.2g}" for words, value in figures if value is not None), "")
    say(f"judged on {receipt.runtime}: passed{told}")
    if engine is not None:
        say(f"engine: {bundle.root / engine}, judged when it is first used")
    if manifest.text is not None:
        say(f"text: {manifest.text.graph} ({manifest.text.source}), judged too")
    predicts = head is not None and head.task in PREDICTS
    command = "predict" if predicts else "embed"
    if head is not None and not head.inputs and not predicts:
        say(f"next: Embedder.open({str(bundle.root)!r}).run(pixels) in Python; see docs/whole-models.md")
        return
    outputs = "--outputs image_embedding " if manifest.text is not None else ""
    say(f"next: dinodeploy {command} IMAGES --engine {bundle.root} {outputs}--out out")
