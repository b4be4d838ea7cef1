"""Dialects: how custom ops are translated to ONNX, and for which runtimes. One table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import exporters.trace.custom_ops  # noqa: F401  (registers the operators that the tables name)
from exporters.dialects import rope_and_attention as portable


@dataclass(frozen=True)
class Dialect:
    """A translation table, the opset it is written in, and the runtimes that parse it."""

    name: str
    opset: int
    ir_version: int
    translations: Mapping[Any, Callable[..., Any]] = field(repr=False)
    runtimes: tuple[str, ...]


DIALECTS: dict[str, Dialect] = {
    "portable": Dialect(
        "portable",
        portable.OPSET,
        portable.IR_VERSION,
        portable.TRANSLATIONS,
        ("onnxruntime", "tensorrt", "tensorrt_rtx", "openvino"),
    )
}
