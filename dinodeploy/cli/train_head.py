"""`dinodeploy train-head`: train a linear head on labelled images, or the backbone with it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from dinodeploy.api import HUB
from dinodeploy.bundle.bundle import Bundle
from dinodeploy.cli.add_head import head_facts, print_head
from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import DEVICE_HELP, PARTIAL, log, note, parse_size, print_json, print_notes, say
from dinodeploy.embedder import Embedder
from dinodeploy.errors import MisuseError, OutputExistsError
from dinodeploy.files.cache import cache_dir
from dinodeploy.hardware.packages import reach
from dinodeploy.heads.fine_tune import FineTuneJob, fine_tune
from dinodeploy.heads.fit import BALANCES
from dinodeploy.heads.train import Trained, TrainOptions
from dinodeploy.heads.train import train_head as train
from dinodeploy.pipeline.progress import LINE_SECONDS, step_progress

HEAD_SUFFIX = ".safetensors"
SHOWN = 20  # reasons and classes to print; --json has all


def train_head(
    task: Annotated[
        str,
        Option(
            help="classify (a class per image), segment (a class per pixel); with --lora or --unfreeze also "
            "multilabel (several classes per image), regress (numbers per image)."
        ),
    ],
    data: Annotated[
        Path,
        Option(
            help="Labelled images: a folder per class; to segment, images/ and masks/ (PNG, 255 ignored); "
            "multilabel and regress: labels.csv."
        ),
    ],
    out: Annotated[
        Path,
        Option(
            help="Bundle to write, or the head alone: NAME.safetensors. With --lora or --unfreeze: folder of "
            "the model, for dinodeploy export."
        ),
    ],
    engine: Annotated[
        Path | None, Option(help="A bundle, an engine file inside one, or hf://ORG/NAME.")
    ] = None,
    lora: Annotated[
        int | None, Option(help="Train LoRA layers of this rank in the backbone, for example 8.")
    ] = None,
    unfreeze: Annotated[
        int | None, Option(help="Train the last N blocks of the backbone; 0: the head alone, on crops.")
    ] = None,
    weights: Annotated[
        str, Option(help="With --lora or --unfreeze: checkpoint file or folder, or hub.")
    ] = HUB,
    arch: Annotated[str | None, Option(help="Model of --weights hub: vit_small, vit_large …")] = None,
    imgsz: Annotated[
        str | None, Option(help="With --lora or --unfreeze: input size H or H,W. Default: 256.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", help="With --lora or --unfreeze: epochs=20, lr=1e-4, flip=false … Repeatable."),
    ] = None,
    test: Annotated[Path | None, Option(help="Test images. Default: a fifth of --data is held out.")] = None,
    pooling: Annotated[
        str, Option(help="Input of a classifier: cls_mean (CLS and mean patch) or cls.")
    ] = "cls_mean",
    class_weight: Annotated[
        str, Option(help="balanced: every class has the same weight. none: every image has.")
    ] = "balanced",
    seed: Annotated[int, Option(help="Seed of the train, validation and test split.")] = 0,
    cache: Annotated[
        Path | None, Option(help="Folder for cached features. Default: the user's cache directory.")
    ] = None,
    no_cache: Annotated[bool, Option("--no-cache", help="Do not cache features.")] = False,
    device: Annotated[str, Option(help=DEVICE_HELP)] = "auto",
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print all scores as JSON on stdout.")] = False,
) -> None:
    """Train a head on engine features and write a bundle with it; --lora, --unfreeze: the backbone too."""
    if lora is not None or unfreeze is not None:
        if engine is not None:
            raise MisuseError("--engine has frozen weights; with --lora or --unfreeze give --weights instead")
        job = FineTuneJob(
            task,
            data,
            out,
            weights,
            arch,
            lora,
            unfreeze,
            test,
            parse_size(imgsz),
            pooling,
            class_weight == "balanced",
            seed,
            None if device == "auto" else device,
            tuple(settings or ()),
            overwrite,
        )
        _fine_tune(job, class_weight, as_json)
        return
    if engine is None:
        raise MisuseError("wanted --engine BUNDLE; or --lora RANK or --unfreeze N with --weights FILE")
    if settings or imgsz or arch or weights != HUB:
        raise MisuseError(
            "--weights, --arch, --imgsz, --set: these are for --lora and --unfreeze; leave them out"
        )
    kept = None if no_cache else cache or cache_dir("features")
    options = TrainOptions(task, pooling, class_weight, seed, kept)  # type: ignore[arg-type]
    _check_out(out, overwrite)
    with Embedder.open(
        engine, device=device, require_signature=require_signature, hint="throughput"
    ) as embedder:
        note(device, embedder.choice)
        with step_progress() as log:
            trained = train(embedder, data, options, test=test, log=log, advance=_counting(log))
        bundle = embedder.bundle
    if out.suffix == HEAD_SUFFIX:
        trained.file.write(out)
        made = None
    else:
        made = _add(bundle, trained, f"{data.resolve().name}-{task}", out, overwrite)
    _report(trained, made, out, bundle.named, as_json)
    if trained.quarantined:
        raise typer.Exit(PARTIAL)


def _fine_tune(job: FineTuneJob, class_weight: str, as_json: bool) -> None:
    """Train the backbone and print what came out. Raises MisuseError, OutputExistsError, UnavailableError."""
    if class_weight not in BALANCES:
        raise MisuseError(f"--class-weight {class_weight!r}; wanted one of {', '.join(BALANCES)}")
    made = fine_tune(job, log)
    if as_json:
        quarantined = [{"id": id_, "reason": reason} for id_, reason in made.quarantined]
        print_json({"model": str(job.out), **made.report, "quarantined": quarantined})
    else:
        for line in fine_tuned_lines(made.report):
            say(line)
        size = ",".join(map(str, made.report["size"]))
        say(f"next: dinodeploy export --weights {job.out} --imgsz {size} --out BUNDLE")
    print_notes((reason for _, reason in made.quarantined[:SHOWN]), "quarantined")
    if made.quarantined:
        raise typer.Exit(PARTIAL)


def _counting(log: Callable[[str], None]) -> Callable[[int, int], None]:
    """Log the number of images done every few seconds."""
    last = time.perf_counter()

    def advance(done: int, failed: int) -> None:
        nonlocal last
        if time.perf_counter() - last >= LINE_SECONDS:
            last = time.perf_counter()
            log(f"features: {done} images, {failed} failed")

    return advance


def _check_out(out: Path, overwrite: bool) -> None:
    """Check `out` before minutes of work. Raises OutputExistsError, MisuseError or UnavailableError."""
    if out.suffix != HEAD_SUFFIX:
        reach("exporters.heads", "writing a bundle (not needed for the head alone: --out NAME.safetensors)")
        reach("exporters.bundle.stage", "writing a bundle").refuse_existing(out, overwrite)
        return
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out} already exists; give --overwrite or another --out")
    if not out.parent.is_dir():
        raise MisuseError(f"{out.parent} is not a folder; create it, or choose another --out")


def _add(bundle: Bundle, trained: Trained, name: str, out: Path, overwrite: bool) -> Any:
    """Write the bundle `out`: `bundle` with the trained head."""
    heads = reach("exporters.heads", "writing a bundle")
    with tempfile.TemporaryDirectory(prefix="dinodeploy_") as folder, step_progress() as log:
        path = Path(folder) / f"{name}{HEAD_SUFFIX}"
        trained.file.write(path)
        loaded = reach("dinov3_ref.heads", "writing a bundle").load_head(path)
        made, notes = heads.add_head(bundle, loaded, out, overwrite=overwrite, log=log)
    print_notes(notes)
    return made


def _report(trained: Trained, made: Any, out: Path, named: str, as_json: bool) -> None:
    if as_json:
        facts = {"head_file": str(out)} if made is None else head_facts(made)
        quarantined = [{"id": id_, "reason": reason} for id_, reason in trained.quarantined]
        print_json({**facts, **trained.report, "quarantined": quarantined})
    else:
        for line in _lines(trained.report):
            say(line)
        if made is not None:
            print_head(made)
        else:
            say(f"{out}: the head alone")
            say(f"next: dinodeploy add-head {named} --head {out} --out BUNDLE")
    print_notes((reason for _, reason in trained.quarantined[:SHOWN]), "quarantined")
    if len(trained.quarantined) > SHOWN:
        log(f"and {len(trained.quarantined) - SHOWN} more; --json has all")


def fine_tuned_lines(report: dict[str, Any]) -> list[str]:
    """The scores of a fine-tuning on the test images as lines of text."""
    if "confusion" in report:
        return _lines(report)
    parts = ", ".join(f"{count} {part}" for part, count in report["pictures"].items())
    what = "classes" if report["task"] == "multilabel" else "values"
    shown = ("mean_average_precision", "f1", "r2", "mae", "rmse")
    scores = ", ".join(f"{name.replace('_', ' ')} {report[name]:.3f}" for name in shown if name in report)
    head = f"{len(report['classes'])} {what}; images: {parts}; best after {report['epochs']} epochs"
    return [head, f"test: {scores}"]


def _lines(report: dict[str, Any]) -> list[str]:
    """The scores on the test images as lines of text."""
    images, classes = report["pictures"], report["classes"]
    parts = ", ".join(f"{count} {part}" for part, count in images.items())
    what = "accuracy" if report["task"] == "classify" else "pixel accuracy"
    how = f"penalty {report['l2']:g}" if "l2" in report else f"best after {report['epochs']} epochs"
    lines = [
        f"{len(classes)} classes; images: {parts}; {how}",
        f"test: {what} {report['accuracy']:.3f}, balanced {report['balanced_accuracy']:.3f}, chance (most "
        f"frequent class) {report['chance']:.3f}",
    ]
    if "mean_iou" in report:
        lines.append(f"test: mean IoU {report['mean_iou']:.3f}")
    rows = zip(classes, report["confusion"], strict=True)
    found = [(name, row[index], sum(row)) for index, (name, row) in enumerate(rows)]
    width = max(len(name) for name in classes)
    found = [entry for entry in found if entry[2]]
    lines += [f"  {name:<{width}}  {right / total:.3f} of {total}" for name, right, total in found[:SHOWN]]
    return lines
