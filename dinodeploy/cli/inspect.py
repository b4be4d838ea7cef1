"""`dinodeploy inspect`: what a bundle, an ONNX file or a checkpoint holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import MODEL_FILE
from dinodeploy.cli.output import print_json
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.files import schema
from dinodeploy.hardware.packages import reach
from dinodeploy.parity.receipts import read_receipts


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, an .onnx file, or a checkpoint.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Say what a file is: model, weights, preprocessing, outputs, operators, receipts."""
    if not path.exists():
        raise MisuseError(f"{path}: no such file or directory")
    if path.is_dir() and (path / manifests.FILE_NAME).exists():
        facts = _bundle(path)
    elif path.suffix == ".onnx":
        facts = {"kind": "onnx", **_graph(path)}
    else:
        facts = _checkpoint(path)
    if as_json:
        print_json(facts)
    else:
        for line in _lines(facts):
            print(line)


def _bundle(path: Path) -> dict[str, Any]:
    """The manifest, the receipts and, where onnx is installed, the graph's operators."""
    bundle = open_bundle(path)
    bundle.verify()
    receipts = [
        {"engine": r.engine, "runtime": r.runtime, "device": r.device, "passed": r.holds()}
        for r in read_receipts(bundle)
    ]
    facts = {"kind": "bundle", **schema.dump(bundle.manifest), "receipts": receipts}
    try:
        graph = _graph(bundle.root / MODEL_FILE)
        facts |= {"operators": graph["operators"], "types": graph["types"]}
    except UnavailableError as error:
        facts["operators"] = str(error)
    return facts


def _graph(path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = reach("exporters.graph.summary", "inspecting a graph").summarize_onnx(path)
    return summary


def _checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = reach("dinov3_ref.checkpoints", "inspecting a checkpoint").load_checkpoint(path)
    distinct = {id(tensor): tensor for tensor in checkpoint.state.values()}  # a tensor may have two names
    return {
        "kind": "checkpoint",
        "arch": checkpoint.arch,
        "layout": checkpoint.layout,
        "dataset": checkpoint.dataset,
        "tensors": len(checkpoint.state),
        "parameters": sum(tensor.numel() for tensor in distinct.values()),
        "dtypes": dict(Counter(str(tensor.dtype) for tensor in checkpoint.state.values())),
        "config": checkpoint.config.kwargs(),
        "sha256": checkpoint.sha256,
        "notes": list(checkpoint.notes),
    }


def _lines(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Nested facts as indented lines, for people."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{key}:"
            for item in value:
                yield f"{indent}  - " + ", ".join(f"{k} {v}" for k, v in item.items())
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            yield f"{indent}{key}: {shown}"
