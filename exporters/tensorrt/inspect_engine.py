"""Describe a plan as JSON: the parsed network and the engine's layers.

TensorRT's inspector needs the plan loaded, which needs a matching GPU. Without one, only the builder's own
list of layers is available.
"""

from __future__ import annotations

from typing import Any

from dinodeploy.errors import BundleError
from dinodeploy.files.json_file import parse_json
from exporters.tensorrt.api import EngineInspector, ICudaEngine, Runtime, TensorRT
from exporters.tensorrt.build_engine import Plan
from exporters.tensorrt.device import Gpu
from exporters.tensorrt.messages import Messages, make_logger


def inspect_engine(
    trt: TensorRT, plan: Plan, gpu: Gpu | None, *, version_compatible: bool = False
) -> dict[str, Any]:
    """`network`, `builder` (its list of layers), `engine` (the inspector's) or the reason why not."""
    facts: dict[str, Any] = {"network": plan.network, "builder": list(plan.engine_layers)}
    if gpu is None:
        return facts | {"engine": None, "engine_missing": "built on a machine without a GPU to load it on"}
    engine, missing = _inspect(trt, plan, version_compatible)
    return facts | {"engine": engine, "engine_missing": missing}


def _inspect(trt: TensorRT, plan: Plan, version_compatible: bool) -> tuple[Any, str | None]:
    logger, messages = make_logger(trt), Messages()
    logger.messages = messages
    runtime: Runtime = trt.Runtime(logger)
    if version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan carries its runtime with it
    engine: ICudaEngine = runtime.deserialize_cuda_engine(plan.memory)
    if engine is None:
        return None, f"it cannot be loaded on this GPU: {messages.reason()}"
    inspector: EngineInspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return parse_json(text, "the inspector's answer", "report"), None
    except BundleError:  # layer names are not always escaped
        return text, None
