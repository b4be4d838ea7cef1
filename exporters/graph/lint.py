"""Rules for a graph, checked before its weights are written. One literal table; a rule gives its reasons.

Each rule returns a complaint, or None. Where a runtime would fail or, worse, be quietly wrong is said
beside the rule; ONNX Runtime is more permissive than TensorRT 10.3, so its acceptance proves little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import onnx
import onnx_ir as ir

from dinodeploy.errors import LintError, reason_of
from exporters.graph.files import without_weights
from exporters.graph.graph import INPUT_NAME, TOKEN_IDS

# input -> its axes of any size
AXES = {
    INPUT_NAME: {0: "batch", 2: "height", 3: "width"},
    TOKEN_IDS: {0: "texts", 1: "tokens"},
}
AXES_OF_BYTES = {0: "batch", 1: "height", 2: "width"}  # uint8 [B,H,W,3]
# If/Loop: TensorRT wants equal shapes in both branches (issues 4558, 4603). Tile: how the If came about.
# NonZero: a shape that depends on data.
FORBIDDEN = ("If", "Loop", "Scan", "Tile", "NonZero")
ALLOWED_TYPES = {
    ir.DataType[name] for name in ("FLOAT", "FLOAT16", "BFLOAT16", "INT8", "FLOAT8E4M3FN", "INT64", "BOOL")
}
# In the dialect for ONNX Runtime's CPU alone.
CPU_OPERATORS = {
    f"com.microsoft::{name}" for name in ("MatMulIntegerToFloat", "MultiHeadAttention", "RotaryEmbedding")
}
CPU_TYPES = {ir.DataType.UINT8}


def _one_input(graph: ir.Graph) -> str | None:
    """A stray mask input is what plain exports leave behind (facebookresearch/dinov3 issue 312)."""
    names = [value.name for value in graph.inputs]
    fits = len(names) == 1 and names[0] in AXES
    return None if fits else f"inputs are {names}; wanted {' or '.join(map(repr, AXES))} alone"


def _free_sizes(graph: ir.Graph, fixed: Collection[str] = ()) -> str | None:
    """Batch, height and width (of token ids: number and length) must be free, or one size only is right.

    fixed: those that the manifest says are not.
    """
    given = graph.inputs[0]
    shape, axes = given.shape, AXES.get(str(given.name), {})
    if given.dtype == ir.DataType.UINT8:
        axes = AXES_OF_BYTES
    wanted = [axis for axis, name in axes.items() if name not in fixed]
    wrong = [axis for axis in wanted if shape is None or isinstance(shape[axis], int)]
    listed = " and ".join(", ".join(map(str, wanted)).rsplit(", ", 1))
    return f"input shape is {shape}; wanted axes {listed} free" if wrong else None


def _no_forbidden_operators(graph: ir.Graph, forbidden: Collection[str] = FORBIDDEN) -> str | None:
    found = Counter(node.op_type for node in graph.all_nodes() if node.op_type in forbidden)
    return f"operators that some runtime cannot take: {dict(found)}" if found else None


def _standard_operators(graph: ir.Graph, allowed: Collection[str] = ()) -> str | None:
    """A leftover operator means that a custom op was not translated."""
    found = {f"{node.domain}::{node.op_type}" for node in graph.all_nodes() if node.domain} - set(allowed)
    return f"operators outside ai.onnx: {', '.join(sorted(found))}" if found else None


def _one_rope_table(graph: ir.Graph) -> str | None:
    """Computed once: a table in every block costs time, and is how bf16 angles creep in."""
    found = Counter(node.op_type for node in graph.all_nodes() if node.op_type in ("Sin", "Cos"))
    wrong = max(found.values(), default=0) > 1
    return f"RoPE tables: {dict(found)}; wanted at most one Sin and one Cos" if wrong else None


def _distinct_names(graph: ir.Graph) -> str | None:
    """An output with a weight's or another value's name makes an invalid graph."""
    values = [*graph.inputs, *graph.initializers.values()]
    values += [output for node in graph.all_nodes() for output in node.outputs]
    repeated = [name for name, count in Counter(value.name for value in values).items() if count > 1]
    return f"names given twice: {', '.join(map(str, repeated[:3]))}" if repeated else None


def _known_types(graph: ir.Graph, more: Collection[ir.DataType] = ()) -> str | None:
    """No float64, which TensorRT does not have; uint8 only as an input that is cast at once."""
    inputs = [value for value in graph.inputs if not _is_cast_at_once(value)]
    values = [*inputs, *graph.outputs, *graph.initializers.values()]
    found = sorted({str(value.dtype) for value in values if value.dtype not in ALLOWED_TYPES.union(more)})
    return f"types that some runtime cannot take: {', '.join(found)}" if found else None


def _is_cast_at_once(value: ir.Value) -> bool:
    users = [node.op_type for node, _ in value.uses()]
    return value.dtype == ir.DataType.UINT8 and set(users) == {"Cast"}


Rule = Callable[[ir.Graph], str | None]
RULES: tuple[Rule, ...] = (
    _one_input,
    _free_sizes,
    _no_forbidden_operators,
    _one_rope_table,
    _distinct_names,
    _standard_operators,
    _known_types,
)


@dataclass(frozen=True)
class Allowed:
    """What a graph may do that a plain backbone's may not.

    fixed: of batch, height and width, those that are not free. whole: it is a whole model, whose other
    layers may repeat tensors, and which may run a backbone twice or have several.
    """

    fixed: tuple[str, ...] = ()
    whole: bool = False


def rules_for(style: str, allowed: Allowed) -> tuple[Rule, ...]:
    """The rules of a graph; `cpu` and `vnni` are for one runtime and may do more."""
    changed: dict[Rule, Rule | None] = {}
    if style in ("cpu", "vnni"):
        changed[_standard_operators] = partial(_standard_operators, allowed=CPU_OPERATORS)
        changed[_known_types] = partial(_known_types, more=CPU_TYPES)
    changed[_free_sizes] = partial(_free_sizes, fixed=allowed.fixed)
    if allowed.whole:
        changed[_one_rope_table] = None
        others = tuple(operator for operator in FORBIDDEN if operator != "Tile")
        changed[_no_forbidden_operators] = partial(_no_forbidden_operators, forbidden=others)
    rules = (changed.get(rule, rule) for rule in RULES)
    return tuple(rule for rule in rules if rule is not None)


def lint(model: ir.Model, style: str = "typed", allowed: Allowed | None = None) -> None:
    """Raises LintError with every rule that the graph breaks."""
    rules = rules_for(style, allowed or Allowed())
    complaints = [complaint for rule in rules if (complaint := rule(model.graph))]
    if complaints:
        raise LintError(f"the exported graph breaks {len(complaints)} rule(s): {'; '.join(complaints)}")


def check_onnx(model: ir.Model) -> None:
    """The official checker with shape inference. Raises LintError.

    Weights stand in as inputs of their shape and type, so none of them has to be made for it.
    """
    proto = without_weights(model)
    present = {tensor.name for tensor in proto.graph.initializer}
    for value in model.graph.initializers.values():
        if value.name not in present:
            proto.graph.input.append(ir.to_proto(value))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LintError(f"the ONNX checker rejects the graph: {reason_of(error)}") from error
