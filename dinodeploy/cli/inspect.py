"""`dinodeploy inspect`: show what a bundle, an ONNX file or a checkpoint contains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import Bundle, is_on_hub, open_bundle
from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import bundle_facts, print_json, say
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.hardware.packages import reach


def inspect(
    path: Annotated[Path, Argument(help="A bundle, hf://ORG/NAME, an .onnx file, or a checkpoint.")],
    require_signature: RequireSignature = None,
    weights_key: Annotated[
        str | None, Option(help="Which model of a checkpoint, by dotted name. Default: EMA if it has one.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show model, weights, preprocessing, outputs, engines and receipts: a summary, then every detail."""
    if is_on_hub(path) or (path / manifests.FILE_NAME).exists():
        facts = _bundle(open_bundle(path, require_signature=require_signature))
    elif not path.exists():
        raise MisuseError(f"{path}: no such file or directory")
    elif require_signature is not None:
        raise MisuseError(f"{path} is no bundle, and only bundles are signed; leave --require-signature out")
    elif path.suffix == ".onnx":
        facts = {"kind": "onnx", **_graph(path)}
    else:
        facts = _checkpoint(path, weights_key)
    if as_json:
        print_json(facts)
    else:
        for line in (*_summary(facts), *_lines(facts)):
            say(line)


def _summary(facts: dict[str, Any]) -> Iterator[str]:
    """A bundle in at most 15 lines; other files are short enough."""
    if facts["kind"] != "bundle":
        return
    model, graph, steps = facts["model"], facts["graph"], facts["preprocess"]
    size = sum(file["bytes"] for file in facts["files"].values())
    yield f"bundle of format {facts['format']}, {size / 2**20:.1f} MiB, by {facts['created_by']}"
    yield (
        f"model      {model['arch']}: {model['depth']} blocks of width {model['embed_dim']}, patch size "
        f"{model['patch_size']}, {model['storage_tokens']} storage tokens"
    )
    yield f"weights    {model['weights']}: {model['source']}, sha256 {model['sha256'][:12]}…"
    yield f"precision  {graph['recipe']}"
    yield f"input      {steps['height']}x{steps['width']} pixels, preset {steps['preset']}"
    yield f"outputs    {', '.join(output['name'] for output in facts['outputs'])}"
    if facts["head"] is not None:
        yield f"head       {facts['head']['kind']}, {len(facts['head']['classes'])} classes"
    if facts["text"] is not None:
        text = facts["text"]
        yield f"text       {text['graph']}, {text['context_length']} of {text['vocabulary_size']:,} tokens"
    engines = (f"{name} ({engine['backend']})" for name, engine in facts["engines"].items())
    yield f"engines    {', '.join(engines)}"
    passed = [receipt for receipt in facts["receipts"] if receipt["passed"]]
    yield f"judged     {len(passed)} of {len(facts['receipts'])} receipts passed"
    for receipt in passed[-4:]:
        yield f"           {receipt['engine']} by {receipt['runtime']} on {receipt['device']}"
    yield ""


def _bundle(bundle: Bundle) -> dict[str, Any]:
    """The manifest, the receipts and, if onnx is installed, the graph's operators."""
    facts = bundle_facts(bundle)
    try:
        if bundle.hub is not None:
            bundle.verify((manifests.MODEL_FILE,))
        graph = _graph(bundle.root / manifests.MODEL_FILE)
        facts |= {"operators": graph["operators"], "types": graph["types"]}
    except UnavailableError as error:
        facts["operators"] = str(error)
    return facts


def _graph(path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = reach("exporters.graph.summary", "inspecting a graph").summarize_onnx(path)
    return summary


def _checkpoint(path: Path, weights_key: str | None) -> dict[str, Any]:
    load_checkpoint = reach("dinov3_ref.checkpoints", "inspecting a checkpoint").load_checkpoint
    checkpoint = load_checkpoint(path, weights_key=weights_key)
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
    """Nested facts as indented lines."""
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
