"""Find the first block where an engine differs from the reference, for `dinodeploy check --bisect`.

The graph gets the stream before and after every block as extra outputs. It stays in memory; ONNX Runtime
reads the weights from the bundle. Needs the onnx package, not torch.

Shapes: T traced positions, L tokens, h w feature map of a stage, D width of the residual stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx import GraphProto, NodeProto, TensorProto, helper

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, EngineChoice
from dinodeploy.errors import BundleError, JudgementError, MisuseError
from dinodeploy.hardware.telemetry import silence_onnxruntime
from dinodeploy.parity.bisect import Bisection, Stretch, bisect
from dinodeploy.parity.golden import GoldenCase, Trace, load_golden
from exporters.graph.files import read_onnx

BACKEND = "onnxruntime"
ERRORS_ONLY = 3
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
NO_STREAM = (
    "this graph has no recognisable residual stream: blocks.<i> or stages.<s>.<i> that add to it in order; "
    "bisect a bundle that `dinodeploy export` wrote"
)
# module path of a block, and of everything inside it
_BLOCK = re.compile(r"(?P<blocks>blocks\.|stages\.\d+\.)(?P<index>\d+)")
_INSIDE = re.compile(rf"{_BLOCK.pattern}(\..*)?")


def bisect_bundle(engine: EngineChoice, *, threads: int | None = None) -> Bisection:
    """Run the traced golden case and name the first block that differs. Does not verify the bundle's files.

    Raises MisuseError for an engine that is not an ONNX file, BundleError for a bundle without a trace or a
    graph without a residual stream, JudgementError if graph and reference have different blocks.
    """
    if engine.facts.backend != BACKEND:
        raise MisuseError(
            f"--bisect opens ONNX graphs, {engine.path} is an engine of "
            f"{engine.facts.backend}; name the bundle's .onnx file instead"
        )
    bundle = engine.bundle
    case = _traced_case(bundle)
    pixels = bundle.manifest.preprocess.for_engine(case.pixels[:1])
    values, outputs = _run_tapped(engine, pixels, threads)
    if len(values) != len(case.traces):
        raise JudgementError(
            f"the engine has {len(values)} residual streams, the reference {len(case.traces)}: these are two "
            "models"
        )
    stretches = []
    for (blocks, names), trace in zip(values.items(), case.traces, strict=True):
        stage = "stages" in blocks  # the module before a stream's first block: downsampling, or the tokens
        entry = blocks.replace("stages", "downsample_layers").rstrip(".") if stage else "tokens"
        found = np.stack([_at_positions(outputs[name], trace, name) for name in names])
        stretches.append(Stretch(entry, blocks, trace, found))
    wanted = {name: output[:1] for name, output in case.outputs.items()}
    return bisect(case.name, stretches, (outputs, wanted), bundle.manifest.graph.recipe, _prefix(bundle))


def _prefix(bundle: Bundle) -> dict[str, int]:
    """Number of tokens of each kind before the patches; none in a ConvNeXt's maps."""
    model = bundle.manifest.model
    if not model.num_heads:
        return {}
    shapes = {output.name: output.shape for output in bundle.manifest.outputs}
    own = int(shapes["extra"][1]) if "extra" in shapes else 0  # [B,E,D], of a user's model
    return {"cls": 1, "storage": model.storage_tokens, "extra": own}


def _traced_case(bundle: Bundle) -> GoldenCase:
    if case := next((case for case in load_golden(bundle.root / GOLDEN_FILE) if case.traces), None):
        return case
    raise BundleError(
        f"{bundle.root / GOLDEN_FILE} holds no trace of the residual stream; export the bundle again (a "
        "ConvNeXt with blocks of your own that change a map's size has none)"
    )


def _run_tapped(
    engine: EngineChoice, pixels: AnyArray, threads: int | None
) -> tuple[dict[str, list[str]], dict[str, AnyArray]]:
    """Run one engine input. Returns `stream_values`, and all graph outputs by name, the stream's included."""
    import onnxruntime

    silence_onnxruntime(onnxruntime)
    model = ir.to_proto(read_onnx(engine.path))
    values_of = stream_values(model.graph)
    _tap(model.graph, [name for names in values_of.values() for name in names])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry(WEIGHTS_FOLDER, str(engine.root.resolve()))
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [output.name for output in session.get_outputs()]
    found = session.run(outputs, {session.get_inputs()[0].name: pixels})
    return values_of, dict(zip(outputs, found, strict=True))


def stream_values(graph: GraphProto) -> dict[str, list[str]]:
    """Names of the values of each residual stream: the input of each block, then the last block's output.

    Keys are path prefixes of the blocks: `blocks.`, or `stages.0.` to `stages.3.`. Found through the graph's
    connections, not through value names, so a bypassed block is noticed. Raises BundleError if there is no
    stream.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    entering = _entering(graph, made_by)
    if not entering or any(sorted(values) != list(range(len(values))) for values in entering.values()):
        raise BundleError(NO_STREAM)
    _, *after = (values[0] for values in entering.values())  # the values that consume each stream's end
    streams = {}
    for (blocks, values), behind in zip(entering.items(), [*after, str(graph.output[0].name)], strict=True):
        end = next(_ends(behind, values[0], made_by), None)
        if end is None:
            raise BundleError(NO_STREAM)
        streams[blocks] = [*(values[index] for index in sorted(values)), end]
    return streams


def _entering(graph: GraphProto, made_by: Mapping[str, NodeProto]) -> dict[str, dict[int, str]]:
    """blocks -> index -> the value from outside the block that its first residual addition uses."""
    weights = {tensor.name for tensor in graph.initializer}
    entering: dict[str, dict[int, str]] = {}
    for node in graph.node:
        block = _BLOCK.fullmatch(_scope(node))
        if node.op_type != "Add" or block is None:
            continue
        values, index = entering.setdefault(block["blocks"], {}), int(block["index"])
        given = [name for name in node.input if name not in weights]
        outside = [name for name in given if not _belongs_to(made_by.get(name), block[0])]
        if index not in values and len(outside) == 1:
            values[index] = outside[0]
    return entering


def _scope(node: NodeProto) -> str:
    """Module path of a node: the part of its name before the operator."""
    return str(node.name).partition("/")[0]


def _belongs_to(node: NodeProto | None, scope: str) -> bool:
    return node is not None and (_scope(node) == scope or _scope(node).startswith(f"{scope}."))


def _ends(behind: str, entered: str, made_by: Mapping[str, NodeProto]) -> Iterator[str]:
    """Search upwards from `behind`, through norms, slices and downsampling, for the last block's output.

    Stops at `entered`, the stream's first value, if all blocks are bypassed.
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
    """Add values to the graph outputs, each once."""
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    present = {output.name for output in graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            dtype = types.get(name) or TensorProto.FLOAT
            graph.output.append(helper.make_tensor_value_info(name, dtype, None))


def _at_positions(values: AnyArray, trace: Trace, name: str) -> FloatArray:
    """Tokens [1,L,D], or a map [1,h,w,D] in row-major order, at the traced positions: [1,T,D]."""
    flat = values.reshape(len(values), -1, values.shape[-1]) if values.ndim in (3, 4) else values
    if flat.ndim != 3 or flat.shape[1] <= trace.tokens.max():
        raise JudgementError(
            f"{name} of the engine is {list(values.shape)}; the reference has a token "
            f"{trace.tokens.max()} there"
        )
    return flat[:, trace.tokens].astype(np.float32)
