"""Run an engine with its residual stream laid open, for `dinodeploy check --bisect`.

The graph gets the stream before and after every block as extra outputs. Nothing is written: the graph
without weights is handed over in memory, and each weight is read from where it lies in the bundle. Only
the onnx package is needed, no torch.

Shapes: T traced tokens or places, L tokens, h w a stage's map, D the stream's width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, EngineChoice
from dinodeploy.errors import BundleError, JudgementError, MisuseError
from dinodeploy.parity.bisect import Bisection, Stretch, bisect
from dinodeploy.parity.golden import GoldenCase, Trace, load_golden
from exporters.graph.read import read_skeleton

BACKEND = "onnxruntime"
ERRORS_ONLY = 3
NO_STREAM = (
    "this graph shows no residual stream: it has no blocks.<i> or stages.<s>.<i> that add to one, one after "
    "the other; bisect a bundle that `dinodeploy export` wrote"
)
# scope of a block's own operators, its residual additions among them
_BLOCK = re.compile(r"(?P<blocks>blocks\.|stages\.\d+\.)(?P<index>\d+)")
_INSIDE = re.compile(rf"{_BLOCK.pattern}(\..*)?")


def bisect_bundle(engine: EngineChoice, *, threads: int | None = None) -> Bisection:
    """Run the traced golden case and name the first block that departs. The bundle's files are trusted.

    Raises MisuseError for an engine that is no ONNX file, BundleError for a bundle without a trace or a
    graph without a residual stream, JudgementError when the graph has other blocks than the reference.
    """
    if engine.facts.backend != BACKEND:
        raise MisuseError(
            f"--bisect opens ONNX graphs, {engine.path} is an engine of "
            f"{engine.facts.backend}; name the bundle's .onnx file instead"
        )
    bundle = engine.bundle
    case = _traced_case(bundle)
    values, outputs = _run_tapped(engine, case.pixels[:1], threads)
    if len(values) != len(case.traces):
        raise JudgementError(
            f"the engine has {len(values)} residual streams, the reference {len(case.traces)}: these are two "
            "models"
        )
    stretches = [
        Stretch(
            _entry(blocks),
            blocks,
            trace,
            np.stack([_at_places(outputs[name], trace, name) for name in names]),
        )
        for (blocks, names), trace in zip(values.items(), case.traces, strict=True)
    ]
    wanted = {name: output[:1] for name, output in case.outputs.items()}
    return bisect(case.name, stretches, (outputs, wanted), bundle.manifest.graph.recipe, _prefix(bundle))


def _entry(blocks: str) -> str:
    """What the place before a stream's first block is called."""
    return blocks.replace("stages", "downsample_layers").rstrip(".") if "stages" in blocks else "tokens"


def _prefix(bundle: Bundle) -> dict[str, int]:
    """How many tokens of each kind come before the patches; a ConvNeXt's maps have none."""
    model = bundle.manifest.model
    if not model.num_heads:
        return {}
    shapes = {output.name: output.shape for output in bundle.manifest.outputs}
    own = int(shapes["extra"][1]) if "extra" in shapes else 0  # [B,E,D], a user's own
    return {"cls": 1, "storage": model.storage_tokens, "extra": own}


def _traced_case(bundle: Bundle) -> GoldenCase:
    for case in load_golden(bundle.root / GOLDEN_FILE):
        if case.traces:
            return case
    raise BundleError(
        f"{bundle.root / GOLDEN_FILE} holds no trace of the residual stream; export the bundle again (a "
        "ConvNeXt with blocks of your own that change a map's size has none)"
    )


def _run_tapped(
    engine: EngineChoice, pixels: FloatArray, threads: int | None
) -> tuple[dict[str, list[str]], dict[str, AnyArray]]:
    """`stream_values`, and all outputs by name; pixels [1,3,H,W]."""
    import onnxruntime

    model, blobs = read_skeleton(engine.path)
    values_of = stream_values(model.graph)
    _tap(model.graph, [name for names in values_of.values() for name in names])
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
    return values_of, dict(zip(outputs, found, strict=True))


def stream_values(graph: GraphProto) -> dict[str, list[str]]:
    """Values of each residual stream: what each block's first addition takes from before it, then the end.

    By what its blocks' names begin with: `blocks.`, or `stages.0.` to `stages.3.`. Found by how the graph is
    wired, not by what values are called: a block that is bypassed shows. Raises BundleError where there is no
    such stream.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    entering = _entering(graph, made_by)
    if not entering or any(sorted(values) != list(range(len(values))) for values in entering.values()):
        raise BundleError(NO_STREAM)
    _, *after = (values[0] for values in entering.values())  # what comes of each stream's end
    streams = {}
    for (blocks, values), behind in zip(entering.items(), [*after, str(graph.output[0].name)], strict=True):
        end = next(_ends(behind, values[0], made_by), None)
        if end is None:
            raise BundleError(NO_STREAM)
        streams[blocks] = [*(values[index] for index in sorted(values)), end]
    return streams


def _entering(graph: GraphProto, made_by: Mapping[str, NodeProto]) -> dict[str, dict[int, str]]:
    """blocks -> index -> the value that a block's first addition takes from outside it."""
    weights = {tensor.name for tensor in graph.initializer}
    entering: dict[str, dict[int, str]] = {}
    for node in graph.node:
        block = _BLOCK.fullmatch(_scope(node))
        if node.op_type != "Add" or block is None:
            continue
        values, index = entering.setdefault(block["blocks"], {}), int(block["index"])
        outside = [
            name
            for name in node.input
            if name not in weights and not _belongs_to(made_by.get(name), block[0])
        ]
        if index not in values and len(outside) == 1:
            values[index] = outside[0]
    return entering


def _scope(node: NodeProto) -> str:
    """Module path of a node: what stands before the operator in its name."""
    return str(node.name).partition("/")[0]


def _belongs_to(node: NodeProto | None, scope: str) -> bool:
    return node is not None and (_scope(node) == scope or _scope(node).startswith(f"{scope}."))


def _ends(behind: str, entered: str, made_by: Mapping[str, NodeProto]) -> Iterator[str]:
    """Up from `behind` through norms, slices and a downsampling to what the stream's last block made.

    That is what `entered` the stream, where its blocks are bypassed.
    """
    pending, seen = [behind], set()
    while pending:
        name = pending.pop()
        node = made_by.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if name == entered or _INSIDE.fullmatch(_scope(node)):
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


def _at_places(values: AnyArray, trace: Trace, name: str) -> FloatArray:
    """Tokens [1,L,D], or a map [1,h,w,D] row by row, at the traced places: [1,T,D]."""
    flat = values.reshape(len(values), -1, values.shape[-1]) if values.ndim in (3, 4) else values
    if flat.ndim != 3 or flat.shape[1] <= trace.tokens.max():
        raise JudgementError(
            f"{name} of the engine is {list(values.shape)}; the reference has a token "
            f"{trace.tokens.max()} there"
        )
    return flat[:, trace.tokens].astype(np.float32)
