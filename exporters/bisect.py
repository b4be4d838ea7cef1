"""Run an engine with its residual stream laid open, for `dinodeploy check --bisect`.

The graph gets the stream before and after every block as extra outputs. Nothing is written: the graph
without weights is handed over in memory, and each weight is read from where it lies in the bundle. Only
the onnx package is needed, no torch.

Shapes: B batch, T traced tokens, L tokens, D embed_dim, n blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper

from dinodeploy.bisect import Bisection, bisect
from dinodeploy.bundle import GOLDEN_FILE, Bundle
from dinodeploy.errors import BundleError, JudgementError, MisuseError
from dinodeploy.golden import GoldenCase, Trace, load_golden
from exporters.read_onnx import read_skeleton

Floats = NDArray[np.float32]

BACKEND = "onnxruntime"
ERRORS_ONLY = 3
_BLOCK = re.compile(r"blocks\.(\d+)")  # scope of a block's own operators: its two residual additions
_INSIDE = re.compile(r"blocks\.\d+(\..*)?")


def bisect_bundle(bundle: Bundle, *, threads: int | None = None) -> Bisection:
    """Run the traced golden case and name the first block that departs. The bundle's files are trusted.

    Raises MisuseError for an engine that is no ONNX file, BundleError for a bundle without a trace or a
    graph without a residual stream, JudgementError when the graph has other blocks than the reference.
    """
    if bundle.engine_facts.backend != BACKEND:
        raise MisuseError(
            f"--bisect opens ONNX graphs, {bundle.engine_path} is an engine of "
            f"{bundle.engine_facts.backend}; name the bundle's .onnx file instead"
        )
    if not bundle.manifest.model.num_heads:
        raise MisuseError(
            f"--bisect follows a ViT's stream of tokens, which {bundle.manifest.model.arch} does not have; "
            "export it with --layers 0,1,2,3, and check judges every stage by itself"
        )
    case, trace = _traced_case(bundle)
    names, outputs = _run_tapped(bundle, case.pixels[:1], threads)
    stream = np.stack([_at_tokens(outputs[name], trace, name) for name in names])
    wanted = {name: output[:1] for name, output in case.outputs.items()}
    return bisect(
        case.name,
        trace,
        stream,
        (outputs, wanted),
        bundle.manifest.model.storage_tokens,
        bundle.manifest.graph.recipe,
        extra_tokens=_own_tokens(bundle),
    )


def _own_tokens(bundle: Bundle) -> int:
    """E of the output `extra` [B,E,D], which only a model with tokens of a user's own has."""
    shapes = {output.name: output.shape for output in bundle.manifest.outputs}
    return int(shapes["extra"][1]) if "extra" in shapes else 0


def _traced_case(bundle: Bundle) -> tuple[GoldenCase, Trace]:
    for case in load_golden(bundle.root / GOLDEN_FILE):
        if case.trace is not None:
            return case, case.trace
    raise BundleError(
        f"{bundle.root / GOLDEN_FILE} holds no trace of the residual stream; export the bundle again"
    )


def _run_tapped(
    bundle: Bundle, pixels: Floats, threads: int | None
) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """Names of the stream's values in order, and all outputs by name; pixels [1,3,H,W]."""
    import onnxruntime

    model, blobs = read_skeleton(bundle.engine_path)
    names = stream_values(model.graph)
    _tap(model.graph, names)
    weights = [blob.read() for blob in blobs.values()]  # the session works on this memory: keep it
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
    values = [from_numpy(w, blob.data_type) for w, blob in zip(weights, blobs.values(), strict=True)]
    options.add_external_initializers(list(blobs), values)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [output.name for output in session.get_outputs()]
    found = session.run(outputs, {session.get_inputs()[0].name: pixels})
    return names, dict(zip(outputs, found, strict=True))


def stream_values(graph: GraphProto) -> list[str]:
    """Values of the residual stream: what each block's first addition takes from before it, then the end.

    Found by how the graph is wired, not by what values are called: a block that is bypassed shows.
    Raises BundleError where there is no such stream.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    entering: dict[int, str] = {}
    for node in graph.node:
        block = _BLOCK.fullmatch(_scope(node))
        if node.op_type == "Add" and block and int(block[1]) not in entering:
            outside = [
                name
                for name in node.input
                if name not in weights and not _belongs_to(made_by.get(name), f"blocks.{block[1]}")
            ]
            if len(outside) == 1:
                entering[int(block[1])] = outside[0]
    end = next(_ends(graph, made_by), None)
    if sorted(entering) != list(range(len(entering))) or not entering or end is None:
        raise BundleError(
            "this graph shows no residual stream: it has no blocks.<i> that add to it one after the other; "
            "bisect a bundle that `dinodeploy export` wrote"
        )
    return [*(entering[index] for index in sorted(entering)), end]


def _scope(node: NodeProto) -> str:
    """Module path of a node: what stands before the operator in its name."""
    return str(node.name).partition("/")[0]


def _belongs_to(node: NodeProto | None, scope: str) -> bool:
    return node is not None and (_scope(node) == scope or _scope(node).startswith(f"{scope}."))


def _ends(graph: GraphProto, made_by: dict[str, NodeProto]) -> Iterator[str]:
    """Up from `cls` through the final norm and slices to what the last block made."""
    pending, seen = [str(graph.output[0].name)], set()
    while pending:
        name = pending.pop()
        node = made_by.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if _INSIDE.fullmatch(_scope(node)):
            yield name
        else:
            pending += reversed(node.input)


def _tap(graph: GraphProto, names: list[str]) -> None:
    """Make values graph outputs, each once."""
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    present = {output.name for output in graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            dtype = types.get(name) or TensorProto.FLOAT
            graph.output.append(helper.make_tensor_value_info(name, dtype, None))


def _at_tokens(values: NDArray[Any], trace: Trace, name: str) -> Floats:
    """[1,L,D] -> [1,T,D] at the traced tokens."""
    if values.ndim != 3 or values.shape[1] <= trace.tokens.max():
        raise JudgementError(
            f"{name} of the engine is {list(values.shape)}; the reference has a token "
            f"{trace.tokens.max()} there"
        )
    return values[:, trace.tokens].astype(np.float32)
