"""Reduce a graph that a runtime computes wrongly to its smallest wrong part, with Polygraphy.

Every part is judged by `judge_part.py`. The result is a model of a few nodes and a report, to attach to a
bug report.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinodeploy.doctor.packages import installed_version
from dinodeploy.errors import ExportError, UnavailableError, reason_of
from dinodeploy.files.atomic import atomic_file
from dinodeploy.hardware.devices import find_gpu
from exporters.debug.judge_part import WRONG, errors_of, find_runner, make_feeds
from exporters.debug.material import FOUND_FILES, import_polygraphy, save_inputs

REDUCED_FILE, INPUTS_FILE, REPORT_FILE = FOUND_FILES
_LARGEST = 2**31 - 2**24  # bytes of one protobuf message, less what is no weight
_PART = "polygraphy_debug.onnx"  # Polygraphy's name for the part that is to be checked
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "polygraphy", "onnx")


@dataclass(frozen=True)
class Reduced:
    """The smallest wrong part of a graph."""

    model: Path
    report: Path
    nodes: int
    operators: dict[str, int]
    errors: dict[str, float]  # relative error by output


def judge_whole(graph: Path, inputs: Path, runner: str) -> tuple[int, dict[str, float]]:
    """Which of the saved inputs has the largest relative error, and every output's error there.

    Raises MisuseError for an unknown runner, UnavailableError where it cannot run the graph.
    """
    function = find_runner(runner)
    saved = import_polygraphy("json").load_json(str(inputs))
    try:
        found = [errors_of(str(graph), feeds, function) for feeds in saved]
    except Exception as error:  # of any runtime, also of a user's own
        raise UnavailableError(f"{runner} cannot run {graph.name}: {reason_of(error)}") from error
    worst = max(range(len(found)), key=lambda index: max(found[index].values()))
    return worst, found[worst]


def reduce_graph(
    graph: Path,
    inputs: Path,
    case: int,
    folder: Path,
    *,
    runner: str,
    limit: float,
    log: Callable[[str], None] = lambda _: None,
) -> Reduced:
    """Reduce `graph`, which `runner` gets wrong by more than `limit` on one of the saved inputs.

    Raises ExportError if the graph has weights of more than 2 GiB, or if Polygraphy fails.
    """
    feeds = import_polygraphy("json").load_json(str(inputs))[case]
    model = (folder / REDUCED_FILE).resolve()
    with tempfile.TemporaryDirectory(dir=folder.resolve()) as work:
        fixed, half, first = (Path(work, name) for name in ("fixed.onnx", "half.onnx", "inputs.json"))
        save_inputs([feeds], first)
        _fix_sizes(graph, {name: value.shape for name, value in feeds.items()}, fixed)
        check = [sys.executable, "-m", "exporters.debug.judge_part", _PART, "--whole", str(fixed)]
        check += ["--runner", runner, "--limit", str(limit), "--inputs", str(first)]
        if (code := _run([*check[:3], str(fixed), *check[4:]], work).returncode) != WRONG:
            raise ExportError(
                f"{runner} gets {graph} wrong, but not where the image's sizes are fixed (exit code {code})"
            )
        # by halves first, then node by node: halves alone leave branches behind
        for mode, start, end in (("bisect", fixed, half), ("linear", half, model)):
            log(f"polygraphy debug reduce --mode {mode}")
            arguments = ["debug", "reduce", str(start), "--output", str(end), "--mode", mode]
            arguments += ["--load-inputs", str(first)]  # what other branches come to
            _polygraphy([*arguments, "--fail-code", str(WRONG), "--check", *check], work)
            if not end.exists():
                raise ExportError(f"polygraphy found no part of {graph} that {runner} gets wrong")
        feeds = make_feeds(str(model), feeds, str(fixed))
    save_inputs([feeds], folder / INPUTS_FILE)
    return _report(graph, model, runner, limit, feeds)


def _fix_sizes(graph: Path, shapes: Mapping[str, tuple[int, ...]], fixed: Path) -> None:
    """Write `graph` for images of one size, without nodes that compute shapes.

    Raises ExportError for weights of more than 2 GiB. `polygraphy surgeon sanitize --fold-constants`
    is no help: it ignores `start` and `end` of Shape.
    """
    import onnx_ir
    from onnxscript import optimizer

    model = onnx_ir.load(graph)
    for value in model.graph.inputs:
        value.shape = onnx_ir.Shape(shapes[str(value.name)])
    optimizer.fold_constants(model, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > _LARGEST:
        raise ExportError(
            f"{graph} has {size / 2**30:.1f} GiB of weights; Polygraphy reduces up to 2 GiB: "
            "debug a smaller model of the same recipe"
        )
    onnx_ir.external_data.load_to_model(model)  # one file, as Polygraphy writes its parts
    onnx_ir.save(model, fixed)


def _polygraphy(arguments: list[str], folder: str) -> None:
    """Run Polygraphy's command line in `folder`. Raises ExportError with the last line that it printed."""
    program = "import sys; from polygraphy.tools._main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *arguments]
    ran = _run(command, folder)
    if ran.returncode:
        reason = (ran.stderr.strip() or ran.stdout.strip() or "no reason given").splitlines()[-1]
        raise ExportError(f"polygraphy {arguments[0]} {arguments[1]} failed: {reason}")


def _run(command: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    """In `folder`, with the modules that this process finds."""
    paths = os.pathsep.join(str(Path(entry).resolve()) for entry in ("", *sys.path))
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
    )


def _report(graph: Path, model: Path, runner: str, limit: float, feeds: Any) -> Reduced:
    import onnx

    nodes = onnx.load(model, load_external_data=False).graph.node
    operators = dict(Counter(node.op_type for node in nodes))
    errors = errors_of(str(model), feeds, find_runner(runner))
    report = model.with_name(REPORT_FILE)
    found = Reduced(model, report, len(nodes), operators, errors)
    content = {
        "graph": str(graph),
        "runner": runner,
        "limit": limit,
        **{key: value for key, value in asdict(found).items() if key not in ("model", "report")},
        "model": REDUCED_FILE,
        "names": [node.name for node in nodes],
        "versions": _versions(),
        "gpu": _gpu(),
        "inputs": INPUTS_FILE,
        "check": f"python -m exporters.debug.judge_part {REDUCED_FILE} --inputs {INPUTS_FILE} "
        f"--runner {runner} --limit {limit}",
    }
    with atomic_file(report) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
    return found


def _versions() -> dict[str, str]:
    found = {package: installed_version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), **{name: at for name, at in found.items() if at is not None}}


def _gpu() -> str | None:
    try:
        return find_gpu().device
    except UnavailableError:
        return None
