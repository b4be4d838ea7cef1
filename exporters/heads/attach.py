"""Attach a head to the files of a bundle: graphs, golden cases and manifest.

    model.onnx        ─┐                    ┌─> model.onnx         with the head appended
    model.cpu.onnx    ─┼── + head graph ────┼─> model.cpu.onnx     the same
    golden outputs    ─┘   (fp32, torch)    └─> golden outputs     the head on the fp32 reference's features

A recipe covers the backbone up to its fp32 outputs: a head always computes in fp32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import GOLDEN_FILE, file_facts
from dinodeploy.bundle.manifest import (
    MODEL_FILE,
    WEIGHTS_FILE,
    EngineFacts,
    HeadFacts,
    Manifest,
    ModelFacts,
    OutputFacts,
)
from dinodeploy.errors import ExportError, MisuseError
from dinodeploy.files.atomic import replace as replace_file
from dinodeploy.parity.golden import GoldenCase, load_golden, save_golden
from dinov3_ref.heads import Head, LoadedHead, layers_of
from exporters.dialects import DIALECTS
from exporters.graph.files import read_onnx, share_weights, write_onnx
from exporters.graph.fuse_attention import MICROSOFT
from exporters.graph.lint import check_onnx, lint
from exporters.heads.condition import condition_of, features_of
from exporters.heads.trace_head import SCOPE, head_graph


def check_fits(loaded: LoadedHead, facts: ModelFacts) -> tuple[str, ...]:
    """Check that a head fits a backbone. Returns notes on unverified assumptions. Raises MisuseError."""
    loaded.head.check()
    wanted = loaded.head.embed_dim
    if wanted is not None and wanted != facts.embed_dim:
        raise MisuseError(
            f"the head {loaded.source} reads features of {wanted} channels, {facts.arch} has "
            f"{facts.embed_dim}; use a head trained on this backbone"
        )
    layers = layers_of(loaded.head.inputs, "(?:layer|cls)")
    if facts.num_heads == 0 and layers_of(loaded.head.inputs, "cls"):
        raise MisuseError(
            f"the head {loaded.source} reads CLS tokens of blocks, which a ConvNeXt does not have"
        )
    if layers and layers[-1] >= facts.depth:
        raise MisuseError(
            f"the head {loaded.source} reads block {layers[-1]}; {facts.arch} has blocks 0..{facts.depth - 1}"
        )
    if loaded.backbone_sha256 and facts.sha256 and loaded.backbone_sha256 != facts.sha256:
        raise MisuseError(
            f"the head {loaded.source} was trained on the weights {loaded.backbone_sha256[:12]}…, these are "
            f"{facts.sha256[:12]}…; train it again: dinodeploy train-head"
        )
    adapter = loaded.trained.get("adapter_sha256")
    if adapter and adapter != (facts.adapter.sha256 if facts.adapter is not None else None):
        raise MisuseError(
            f"the head {loaded.source} was trained with the adapter {adapter[:12]}…; give that as --adapter"
        )
    return loaded.notes


def attach_head(root: Path, manifest: Manifest, loaded: LoadedHead, keep: Collection[str]) -> Manifest:
    """Rewrite the graphs and golden cases in `root`, in place. Returns the manifest that describes them.

    keep: backbone outputs that stay graph outputs. Engine plans are dropped: they have no head.
    Raises MisuseError when the head does not fit, ExportError or LintError when a graph cannot be made.
    """
    head = loaded.head.eval()
    golden = load_golden(root / GOLDEN_FILE)
    settings = {**head.settings, **condition_of(head, golden, manifest.graph.recipe)}
    described = _describe(manifest, loaded, keep, settings)
    save_golden([_with_head(case, head, keep) for case in golden], root / GOLDEN_FILE)
    engines: dict[str, EngineFacts] = {}
    graphs = {name: read_onnx(root / name) for name in _graphs(manifest)}
    with tempfile.TemporaryDirectory(dir=root) as folder:  # the graphs still read the files in `root`
        for name, graph in graphs.items():
            _attach_to_graph(graph, Path(folder, name), described, head, keep)
            engines[name] = replace(manifest.engines[name], files=(name, WEIGHTS_FILE), outputs=())
        for written in Path(folder).iterdir():
            replace_file(written, root / written.name)
    for name, facts in manifest.engines.items():
        if facts.same_numbers_as is not None:  # CLS-only graphs have no head
            (root / name).unlink(missing_ok=True)
    files = {name: file_facts(root / name) for name in (*engines, WEIGHTS_FILE, GOLDEN_FILE)}
    return replace(described, engines=engines, files=files, preference=(), digest="").with_preference()


def _graphs(manifest: Manifest) -> tuple[str, ...]:
    """The full graphs of a bundle, the typed one first."""
    full = (
        name
        for name, facts in manifest.engines.items()
        if name.endswith(".onnx") and facts.same_numbers_as is None
    )
    return tuple(dict.fromkeys((MODEL_FILE, *full)))


def _describe(
    manifest: Manifest, loaded: LoadedHead, keep: Collection[str], settings: dict[str, Any]
) -> Manifest:
    head = loaded.head
    facts = HeadFacts(
        task=head.task,  # type: ignore[arg-type]
        kind=loaded.kind,
        inputs=head.inputs,
        outputs=tuple(head.outputs),
        classes=head.classes,
        source=loaded.source,
        sha256=loaded.sha256,
        licence=loaded.licence,
        settings=settings,
    )
    outputs = [output for output in manifest.outputs if output.name in keep]
    outputs += [OutputFacts(name, shape) for name, shape in head.outputs.items()]
    layers = tuple(index for index in manifest.graph.layers if f"layer_{index}" in keep)
    return replace(
        manifest,
        format=manifests.FORMAT,
        outputs=tuple(outputs),
        graph=replace(manifest.graph, layers=layers),
        engines={},
        head=facts,
    )


def _with_head(case: GoldenCase, head: Head, keep: Collection[str]) -> GoldenCase:
    """A golden case with the outputs of the head on the reference's features."""
    features = features_of(case, head.inputs)
    with torch.inference_mode():
        made = head(*features)
    made = (made,) if isinstance(made, torch.Tensor) else made
    outputs = {name: array for name, array in case.outputs.items() if name in keep}
    for (name, shape), output in zip(head.outputs.items(), made, strict=True):
        if not torch.isfinite(output).all():
            raise ExportError(
                f"the head gives NaN or infinite {name} on photographs {case.name!r}; fix its weights"
            )
        if output.ndim != len(shape):
            raise MisuseError(f"head output {name!r} is {list(output.shape)}; declared as {list(shape)}")
        outputs[name] = np.ascontiguousarray(output.float().numpy())
    return replace(case, outputs=outputs)


def _attach_to_graph(
    model: ir.Model, path: Path, manifest: Manifest, head: Head, keep: Collection[str]
) -> None:
    """Write one graph with the head appended."""
    merge(model, head_graph(head, manifest.model, DIALECTS[manifest.graph.dialect]), keep)
    lint(model, "cpu" if MICROSOFT in model.opset_imports else "typed")
    if MICROSOFT not in model.opset_imports:  # onnx does not know these operators
        check_onnx(model)
    model.metadata_props[manifests.METADATA_KEY] = manifest.facts()
    if path.name == MODEL_FILE:  # written first; the other graphs read its weights
        write_onnx(model, path)
    else:
        share_weights(model, path.with_name(MODEL_FILE), path)


def merge(backbone: ir.Model, head: ir.Model, keep: Collection[str]) -> None:
    """Move `head` into `backbone`, in place. Only the backbone outputs in `keep` stay outputs.

    Raises MisuseError for a feature that is not an output of the backbone.
    """
    graph, added = backbone.graph, head.graph
    features = {str(output.name): output for output in graph.outputs}
    for value in added.inputs:
        if str(value.name) not in features:
            known = ", ".join(features)
            raise MisuseError(
                f"the head reads {value.name}, which is not an output of this graph; wanted one of {known}"
            )
    _make_distinct(added)
    for value in added.inputs:
        value.replace_all_uses_with(features[str(value.name)])
    outputs = list(added.outputs)
    added.outputs.clear()
    for name in list(added.initializers):
        graph.initializers.add(added.initializers.pop(name))
    for node in list(added):
        added.remove(node)
        graph.append(node)
    kept = [output for output in graph.outputs if output.name in keep]
    graph.outputs.clear()
    graph.outputs.extend((*kept, *outputs))


def _make_distinct(graph: ir.Graph) -> None:
    """Prefix the head's names: the exporter numbers names from zero in every graph."""
    for name in list(graph.initializers):
        if not name.startswith(SCOPE):
            value = graph.initializers.pop(name)
            value.name = f"{SCOPE}.{name}"
            graph.initializers.add(value)
    outputs = {value.name for value in graph.outputs}
    for node in graph:
        if not str(node.name).startswith(SCOPE):
            node.name = f"{SCOPE}.{node.name}"
        for value in node.outputs:
            if value.name not in outputs and not str(value.name).startswith(SCOPE):
                value.name = f"{SCOPE}.{value.name}"
