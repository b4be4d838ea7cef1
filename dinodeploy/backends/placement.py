"""Where ONNX Runtime really ran a graph: its own profile of one run, node by node.

A session that has the CUDA provider may still have given any node to the CPU, without a word. A provider
leaves the small integer arithmetic on shapes to the CPU on purpose; what must not end up there are the
operators that do the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The operators of our graphs, and what ONNX Runtime's optimiser fuses them to.
WORK = frozenset(
    {
        "Attention",
        "BiasGelu",
        "Conv",
        "Erf",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "MatMulInteger",
        "MultiHeadAttention",
        "NhwcConv",
        "QLinearMatMul",
        "QuickGelu",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "Softmax",
    }
)


@dataclass(frozen=True)
class RanNode:
    """One node as it was run."""

    name: str
    op: str
    provider: str


def profiled(session: Any, run: Callable[[], object]) -> list[RanNode]:
    """The nodes that `run` makes `session` run. It must have been opened with `enable_profiling`, which
    ends with this.
    """
    try:
        run()
    finally:
        path = Path(session.end_profiling())
    return read_profile(path)


def read_profile(path: Path) -> list[RanNode]:
    """The nodes of one of ONNX Runtime's profiles (Chrome's trace format)."""
    nodes = []
    for event in json.loads(path.read_text()):
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in arguments:
            name = event["name"].removesuffix("_kernel_time")
            nodes.append(RanNode(name, arguments.get("op_name", ""), arguments["provider"]))
    return nodes


def astray(nodes: list[RanNode], provider: str) -> list[RanNode]:
    """The nodes that do the work and ran elsewhere than on `provider`.

    Only what ran counts: a graph that one provider took as a whole is one node of that provider.
    """
    return [node for node in nodes if node.op in WORK and node.provider != provider]
