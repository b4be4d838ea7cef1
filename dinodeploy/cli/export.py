"""`dinodeploy export`: a checkpoint becomes a judged bundle."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from dinodeploy.cli.build import build_after_export, check_engine_options
from dinodeploy.cli.output import parse_list, parse_size, print_json, stages, stderr
from dinodeploy.cli.reach import reach
from dinodeploy.errors import MisuseError

HUB, RANDOM = "hub", "random"
FP32 = "fp32"


def export(
    arch: Annotated[
        str | None, typer.Option(help="vit_small, vit_large …, or a hub name. A file tells its own.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="A checkpoint file or directory, 'hub', or 'random' for trying things.")
    ] = HUB,
    out: Annotated[Path | None, typer.Option(help="The bundle to write. Default: ARCH-PRECISION.")] = None,
    precision: Annotated[str, typer.Option(help="The precision recipe: fp32, fp16, bf16, int8, fp8.")] = FP32,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="--precision fp16.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="--precision bf16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="--precision int8.")] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="--precision fp8.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Pictures for int8 and fp8. Default: six shipped photographs.")
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="At most so many of them.")] = 128,
    calibration_seed: Annotated[int, typer.Option(help="Which of them, where there are more.")] = 0,
    override: Annotated[
        list[str] | None,
        typer.Option(help="Layers by name in another type: 'blocks.0.*=fp32'. The last one counts."),
    ] = None,
    imgsz: Annotated[str | None, typer.Option(help="Input size H or H,W. Default: the preset's.")] = None,
    preprocess: Annotated[
        str, typer.Option(help="Preprocessing preset: official, hf, timm, eval, keep-aspect.")
    ] = "official",
    layers: Annotated[str | None, typer.Option(help="Blocks whose patch maps to output too: 2,5,8.")] = None,
    head: Annotated[
        str | None, typer.Option(help="A head behind the backbone: a head file, or pyramid:3,5,7,11.")
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Output what CLS attends to in the last block, head by head.")
    ] = False,
    dataset: Annotated[
        str | None, typer.Option(help="lvd1689m or sat493m, where the weights do not tell.")
    ] = None,
    rope_periods: Annotated[
        str, typer.Option(help="For layouts that drop them: bf16 (as released) or fp32 (as HF and timm).")
    ] = "bf16",
    dialect: Annotated[str, typer.Option(help="ONNX dialect.")] = "portable",
    fold: Annotated[str, typer.Option(help="Folds to apply: all, none, or a list.")] = "all",
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Weights beside the graph, whatever their size.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of --weights random.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use the hub's local cache only.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Build an engine too: tensorrt or rtx. See dinodeploy build.")
    ] = None,
    no_engine: Annotated[
        bool, typer.Option("--no-engine", help="Build none, though TensorRT and a GPU are here.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Turn a checkpoint into an ONNX bundle, judged on this machine against the fp32 reference."""
    exporter = reach("exporters.bundle.export", "export")
    checkpoints = reach("dinov3_ref.checkpoints", "export")
    precision = _precision(precision, {"fp16": fp16, "bf16": bf16, "int8": int8, "fp8": fp8})
    options = exporter.ExportOptions(
        recipe=precision,
        dialect=dialect,
        preset=preprocess,
        imgsz=parse_size(imgsz),
        layers=tuple(_number(name) for name in parse_list(layers, "--layers")) if layers else (),
        attention=attention,
        folds=_folds(fold, exporter.FOLDS),
        calibration=exporter.Calibration(calibration, calibration_images, calibration_seed),
        overrides=tuple(_override(text) for text in override or ()),
        external_data=external_data,
        overwrite=overwrite,
    )
    check_engine_options(target, no_engine)
    if rope_periods not in ("bf16", "fp32"):
        raise MisuseError(f"--rope-periods {rope_periods!r}; wanted bf16 or fp32")
    with stages() as say:
        say(f"loading {weights}")
        checkpoint, origin = _load(checkpoints, weights, arch, dataset, rope_periods, seed, revision, offline)
        root = out or Path(f"{checkpoint.arch}-{precision}")
        bundle, notes = exporter.export_checkpoint(
            checkpoint,
            root,
            options,
            weights=origin,
            rope_periods=rope_periods,
            dataset=dataset,
            head=_head(head, checkpoint.config),
            say=say,
        )
    engine, more = build_after_export(root, target, no_engine)
    for note in (*notes, *more):
        stderr().print(f"note: {note}", markup=False)
    _report(bundle, engine, (*notes, *more), as_json)


def _precision(named: str, aliases: dict[str, bool]) -> str:
    """The one recipe that was asked for, by name or by alias. Raises MisuseError when there are two."""
    asked = {name for name, given in aliases.items() if given} | ({named} - {FP32})
    if len(asked) > 1:
        raise MisuseError(f"got the precisions {', '.join(sorted(asked))}; wanted one")
    return asked.pop() if asked else FP32


def _folds(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    if text in ("all", "none"):
        return known if text == "all" else ()
    return parse_list(text, "--fold", known)


def _override(text: str) -> tuple[str, str]:
    pattern, _, name = text.rpartition("=")
    return pattern, name


def _head(text: str | None, config: Any) -> Any:
    if text is None:
        return None
    find_head = reach("exporters.heads", "export").find_head
    return find_head(text, config.embed_dim, config.depth, config.patch_size)


def _number(name: str) -> int:
    if not name.isdecimal():
        raise MisuseError(f"--layers: {name!r} is no block number; wanted for instance 2,5,8")
    return int(name)


def _load(
    checkpoints: ModuleType,
    weights: str,
    arch: str | None,
    dataset: str | None,
    periods: str,
    seed: int,
    revision: str | None,
    offline: bool,
) -> tuple[Any, str]:
    """The checkpoint, and where it came from: file, hub or random."""
    if weights in (HUB, RANDOM) and arch is None:
        raise MisuseError(f"--weights {weights} needs --arch, for instance --arch vit_small")
    if weights == RANDOM:
        return checkpoints.random_checkpoint(arch, seed), RANDOM
    if weights == HUB:
        fetched = checkpoints.fetch(arch, dataset=dataset, revision=revision, offline=offline or None)
        return checkpoints.load_checkpoint(fetched, arch=arch, periods=periods), HUB
    return checkpoints.load_checkpoint(Path(weights), arch=arch, periods=periods), "file"


def _report(bundle: Any, engine: str | None, notes: tuple[str, ...], as_json: bool) -> None:
    model, receipt = bundle.manifest.model, bundle.receipt
    worst = {
        metric: _worst(receipt, metric)
        for metric in ("relative_frobenius", "cosine", "patch_cosine_p01", "pixel_max")
    }
    if as_json:
        files = {name: facts.bytes for name, facts in bundle.manifest.files.items()}
        print_json(
            {
                "bundle": str(bundle.root),
                "arch": model.arch,
                "weights": model.weights,
                "source": model.source,
                "precision": bundle.manifest.graph.recipe,
                "head": bundle.manifest.head.kind if bundle.manifest.head else None,
                "files": files,
                "passed": receipt.passed,
                "runtime": receipt.runtime,
                "device": receipt.device,
                "worst": worst,
                "engine": engine,
                "notes": list(notes),
            }
        )
        return
    recipe = bundle.manifest.graph.recipe
    print(f"{bundle.root}: {model.arch}, {recipe}, weights {model.weights} ({model.source})")
    head = bundle.manifest.head
    if head is not None:
        print(f"head: {head.kind} ({head.source}), outputs {', '.join(head.outputs)}")
    error = worst["relative_frobenius"]
    print(f"judged on {receipt.runtime}: passed, relative Frobenius error {error:.1e}")
    if engine is not None:
        print(f"engine: {bundle.root / engine}, judged when it is first used")
    predicts = head is not None and head.task in ("classify", "segment", "depth")
    print(f"next: dinodeploy {'predict' if predicts else 'embed'} IMAGES --engine {bundle.root} --out out")


def _worst(receipt: Any, metric: str) -> float | None:
    from dinodeploy.parity.judge import Verdict

    return Verdict(receipt.recipe, receipt.measurements).worst(metric)
