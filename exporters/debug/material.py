"""Golden inputs and reference outputs in Polygraphy's format, and the commands that use them."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle
from dinodeploy.bundle.manifest import CPU_FILE, MODEL_FILE
from dinodeploy.errors import MisuseError, OutputExistsError, UnavailableError
from dinodeploy.parity.golden import GoldenCase, load_golden
from dinodeploy.parity.thresholds import relative_limit

INPUTS_FILE, OUTPUTS_FILE = "inputs.json", "reference.json"
FOUND_FILES = ("reduced.onnx", "reduced-inputs.json", "report.json")  # written by reduce.py
PIXELS = "pixels"


@dataclass(frozen=True)
class Material:
    """What was written, and the commands that use it."""

    inputs: Path
    outputs: Path
    commands: tuple[str, ...]


def import_polygraphy(module: str) -> Any:
    """A module of Polygraphy, which is kept off stdout. Raises UnavailableError with what to install."""
    try:
        logger = importlib.import_module("polygraphy.logger").G_LOGGER
        logger.module_severity = logger.ERROR
        return importlib.import_module(f"polygraphy.{module}")
    except ImportError as error:
        raise UnavailableError(
            f"debug needs polygraphy ({error}): pip install 'dinodeploy[debug]'"
        ) from error


def write_material(bundle: Bundle, folder: Path, *, overwrite: bool = False) -> Material:
    """Write golden inputs and outputs into `folder`.

    Raises MisuseError for a bundle without model.onnx, OutputExistsError where an earlier run wrote.
    """
    if MODEL_FILE not in bundle.manifest.engines:
        raise MisuseError(f"{bundle.named} has no {MODEL_FILE}, which Polygraphy would run")
    bundle.verify()
    cases = load_golden(bundle.root / GOLDEN_FILE)
    inputs, outputs = folder / INPUTS_FILE, folder / OUTPUTS_FILE
    if inputs.exists() and not overwrite:
        raise OutputExistsError(f"{inputs} exists; pass --overwrite, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (OUTPUTS_FILE, *FOUND_FILES):  # what an earlier run found is not true of this one
        (folder / name).unlink(missing_ok=True)
    feeds = [bundle.manifest.preprocess.for_engine(case.pixels) for case in cases]
    save_inputs([{PIXELS: feed} for feed in feeds], inputs)
    results = import_polygraphy("comparator").RunResults()
    results.add([dict(case.outputs) for case in cases], runner_name="reference in fp32")
    results.save(str(outputs))
    shapes = [feed.shape for feed in feeds]
    return Material(inputs, outputs, _commands(bundle, cases, shapes, inputs, outputs))


def save_inputs(feeds: list[dict[str, Any]], path: Path) -> None:
    import_polygraphy("json").save_json(feeds, str(path))


def _commands(
    bundle: Bundle, cases: list[GoldenCase], fed: list[tuple[int, ...]], inputs: Path, outputs: Path
) -> tuple[str, ...]:
    """TensorRT on the typed graph and ONNX Runtime on the graph for CPUs, each against the reference."""
    limit = relative_limit(bundle.manifest.graph.recipe)
    tolerances = [f"{name}:{limit * _size(cases, name):.3g}" for name in cases[0].outputs]
    compare = ["--load-inputs", str(inputs), "--load-outputs", str(outputs)]
    # Polygraphy compares element by element; the judge's limit is on the norm, so the mean has to hold
    compare += ["--check-error-stat", "mean", "--rtol", "0", "--atol", *tolerances]
    shapes = np.array(fed)
    profile = []
    for word, shape in (("min", shapes.min(0)), ("opt", shapes[0]), ("max", shapes.max(0))):
        profile += [f"--trt-{word}-shapes", f"{PIXELS}:[{','.join(map(str, shape))}]"]
    typed = str(bundle.home / MODEL_FILE)
    cpu = str(bundle.home / (CPU_FILE if CPU_FILE in bundle.manifest.engines else MODEL_FILE))
    return (
        shlex.join(["polygraphy", "run", typed, "--trt", "--strongly-typed", *profile, *compare]),
        shlex.join(["polygraphy", "run", cpu, "--onnxrt", *compare]),
    )


def _size(cases: list[GoldenCase], name: str) -> float:
    """Root mean square of an output."""
    return float(np.sqrt(np.mean([np.mean(np.square(case.outputs[name])) for case in cases])))
