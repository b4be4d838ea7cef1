"""Run ONNX graphs with OpenVINO on the CPU, in the precision that the recipe allows and no lower.

OpenVINO lowers fp32 to bf16 automatically where the CPU supports it. Here the precision is always explicit:
f32, so that the types in the graph count, unless the recipe allows bf16 (`PRECISIONS`) and the CPU has the
instructions.

A model compiled for one input shape is 5 to 15 % faster than one that accepts any, and rounds differently:
by 1e-7, which 16 bits and 8 bits turn into 1e-3 and 1e-2. An image's embedding must depend neither on its
batch nor on what ran before. So the size alone decides (`OpenVinoBackend.is_fixed`): squares and the bundle's
own size have a model for a batch of one, which gives the numbers of any larger batch, and which runs the
images of a batch in parallel; all other sizes, of which a job that keeps aspect ratios has many, share the
model for any shape. A model of 512 MiB or more has only that one, for memory.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.backends import OpenOptions
from dinodeploy.backends.parallel import PIXELS_PER_RUN, in_parts, parallel_runs_for
from dinodeploy.bundle.manifest import METADATA_KEY
from dinodeploy.errors import BundleError, UnavailableError
from dinodeploy.files.json_file import parse_json
from dinodeploy.hardware.cores import cores
from dinodeploy.hardware.devices import cpu_name
from dinodeploy.hardware.telemetry import silence_openvino

Shape = tuple[int, ...]

# recipe -> what OpenVINO may compute in, where the CPU can (its name for the capability). Not bf16: its own
# mode rounds the residual stream too, so that recipe runs by the types of its graph.
PRECISIONS: dict[str, tuple[str, str]] = {"int8": ("bf16", "BF16")}

MODELS = 4  # compiled for one shape each, besides the general one; each has its own copy of the weights
LARGE = 1 << 29  # bytes of weights past which there is only the general one
_MAKING_THE_CORE = threading.Lock()


class OpenVinoBackend:
    """One ONNX file, compiled once or more. Without `threads`, OpenVINO chooses.

    Raises UnavailableError where OpenVINO is not installed, BundleError for a file it cannot read.
    """

    def __init__(self, engine: Path, options: OpenOptions | None = None) -> None:
        options = options or OpenOptions()
        self._openvino: Any = _import()
        self._core = shared_core()
        self._engine = engine
        self._model = self._read()
        self.metadata = _metadata(self._model)
        facts = parse_json(self.metadata.get(METADATA_KEY, "{}"), f"{engine}: {METADATA_KEY}", "manifest")
        recipe = str(facts.get("graph", {}).get("recipe", "fp32"))
        self.parallel_runs = parallel_runs_for(options)
        self.runtime, self._settings = settings(recipe, options.threads, self.parallel_runs)
        self._at_once = PIXELS_PER_RUN if self.parallel_runs > 1 else None
        self.device = f"cpu: {cpu_name()}"
        self._outputs = [output.get_any_name() for output in self._model.outputs]
        own = facts.get("preprocess", {})
        self._own_size = (own.get("height"), own.get("width"))
        self._takes_bytes = own.get("dtype") == "uint8"  # [B,H,W,3], else [B,3,H,W]
        self._is_large = _weights(self._model) >= LARGE
        self._compiled: OrderedDict[tuple[Shape, bool], _Compiled] = OrderedDict()  # oldest use first
        self._any: _Compiled | None = None
        self._streams = options.threads or cores()
        self._lock = threading.Lock()

    gpu = None

    def takes(self, height: int, width: int) -> bool:
        return True

    def is_fixed(self, shape: Shape) -> bool:
        """Whether inputs of this shape have a compiled model of their own, whatever the batch.

        Shapes are [B,3,H,W], or [B,H,W,3] of a model that takes bytes.
        """
        sides = shape[1:3] if self._takes_bytes else shape[2:]
        is_square = len(shape) == 4 and sides[0] == sides[1]
        return not self._is_large and (is_square or sides == self._own_size)

    def run(self, pixels: AnyArray, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        if self.is_fixed(pixels.shape):
            together = len(pixels) > 1 and self.parallel_runs == 1
            own = self.compiled_for(pixels.shape, together=together)
            values: Sequence[FloatArray] = own.run_each(pixels)
        else:
            values = in_parts(self.compiled_for(pixels.shape).run, pixels, self._at_once)
        made = dict(zip(self._outputs, values, strict=True))
        return made if outputs is None else {name: made[name] for name in outputs}

    def close(self) -> None:
        self._compiled.clear()
        self._any = self._model = None

    def compiled_for(self, shape: Shape, *, together: bool = False) -> _Compiled:
        """The model compiled for one image of `shape`, or for any shape; compiled now if it is not there.

        together: with a stream for each thread, for several images in parallel.
        """
        with self._lock:
            if not self.is_fixed(shape):
                if self._any is None:
                    self._any = self._compile(self._model)
                return self._any
            key = ((1, *shape[1:]), together)
            if key in self._compiled:
                self._compiled.move_to_end(key)
                return self._compiled[key]
            if len(self._compiled) == MODELS:
                self._compiled.popitem(last=False)
            model = self._model.clone()  # weights stay mapped from the file
            model.reshape({0: self._openvino.PartialShape(list(key[0]))})
            self._compiled[key] = self._compile(model, self._streams if together else 1)
            return self._compiled[key]

    def _read(self) -> Any:
        try:
            model = self._core.read_model(self._engine)
            _take_products_apart(model)
            return model
        except RuntimeError as error:  # the class of all its errors
            raise BundleError(f"{self._engine}: OpenVINO cannot load it: {_reason(error)}") from error

    def _compile(self, model: Any, streams: int = 1) -> _Compiled:
        chosen = self._settings | (_streams(streams) if streams > 1 else {})
        try:
            return _Compiled(self._core.compile_model(model, "CPU", chosen), streams)
        except RuntimeError as error:
            raise UnavailableError(
                f"{self._engine.name}: {self.runtime} cannot run it on {self.device}: {_reason(error)}"
            ) from error


class _Compiled:
    """A compiled model and its requests: one per parallel run. streams: that a batch uses in parallel."""

    def __init__(self, compiled: Any, streams: int) -> None:
        self.compiled = compiled
        self._streams = streams
        self._idle: list[Any] = []

    def run(self, pixels: AnyArray) -> list[FloatArray]:
        request = self._request()
        try:
            return [np.array(value) for value in request.infer({0: pixels}, share_outputs=True).values()]
        finally:
            self._idle.append(request)

    def run_each(self, pixels: AnyArray) -> list[FloatArray]:
        """The outputs of a batch with a model for one image: as many in parallel as there are streams."""
        requests = [self._request() for _ in range(min(self._streams, len(pixels)))]
        rows: list[list[FloatArray]] = []
        try:
            for start in range(0, len(pixels), len(requests)):
                busy = requests[: len(pixels) - start]
                for at, request in enumerate(busy, start):
                    request.start_async({0: pixels[at : at + 1]}, share_inputs=True)
                for request in busy:
                    request.wait()
                rows += [[np.array(value) for value in request.results.values()] for request in busy]
        finally:
            for request in requests:  # they read `pixels`, also where another one has failed
                with suppress(RuntimeError):
                    request.wait()
            self._idle += requests
        return [np.concatenate(values) for values in zip(*rows, strict=True)]

    def _request(self) -> Any:
        try:
            return self._idle.pop()  # list.pop and append are atomic
        except IndexError:
            return self.compiled.create_infer_request()


def shared_core() -> Any:
    """The process's only `Core`. Raises UnavailableError where OpenVINO is not installed."""
    with _MAKING_THE_CORE:
        return _core()


@cache
def _core() -> Any:
    """The process's only `Core`, never freed.

    Each `Core` installs a signal stack in the thread that creates it and frees it when destroyed. When
    several are destroyed in another order than created (OpenVINO 2026.4), the thread keeps a freed stack, and
    the next signal (Ctrl-C, the end of a child) ends the process with SIGSEGV.
    """
    return _import().Core()


def _import() -> Any:
    silence_openvino()
    try:
        import openvino
    except ImportError as error:
        raise UnavailableError(
            f"openvino cannot be imported ({error}); install it: pip install 'dinodeploy[openvino]'"
        ) from error
    return openvino


def _metadata(model: Any) -> dict[str, str]:
    """The ONNX file's own metadata, which OpenVINO keeps under "framework"."""
    kept = model.get_rt_info()
    framework = kept["framework"] if "framework" in kept else {}  # noqa: SIM401  it has no get
    return {key: str(value.value) for key, value in framework.items()}


def settings(recipe: str, threads: int | None, parallel_runs: int = 1) -> tuple[str, dict[str, Any]]:
    """The runtime's name, and the options to compile a recipe's model with on this CPU.

    parallel_runs: with more than one, each has one thread.
    """
    precision = precision_for(recipe, shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    version = _import().get_version().partition("-")[0]
    asked: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if parallel_runs > 1:
        asked |= _streams(parallel_runs)
    elif threads is not None:
        asked["INFERENCE_NUM_THREADS"] = threads
    return f"openvino {version}" + ("" if precision == "f32" else f" {precision}"), asked


def precision_for(recipe: str, capabilities: list[str]) -> str:
    precision, capability = PRECISIONS.get(recipe, ("f32", ""))
    return precision if capability in capabilities else "f32"


def _take_products_apart(model: Any) -> None:
    """Undo products that were joined for GPUs: x @ Concat(weights), then a Split, becomes a product for each.

    Weights that OpenVINO would join here are copies in memory; apart, they stay mapped from the file.
    """
    from openvino import opset13

    for split in model.get_ops():
        if split.get_type_name() not in ("Split", "VariadicSplit"):
            continue
        product = split.input_value(0).get_node()
        if product.get_type_name() != "MatMul":
            continue
        joined = product.input_value(1).get_node()
        weights = joined.input_values() if joined.get_type_name() == "Concat" else []
        if not weights or any(value.get_node().get_type_name() != "Constant" for value in weights):
            continue
        flags = product.get_attributes()
        for weight, output in zip(weights, split.outputs(), strict=True):
            part = opset13.matmul(
                product.input_value(0), weight, flags["transpose_a"], flags["transpose_b"]
            ).output(0)
            for reader in output.get_target_inputs():
                reader.replace_source_output(part)
    model.validate_nodes_and_infer_types()


def _streams(count: int) -> dict[str, Any]:
    """Options for parallel runs of one thread each."""
    return {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": count, "INFERENCE_NUM_THREADS": count}


def _weights(model: Any) -> int:
    """Bytes of the constants of a model."""
    return sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")


def _reason(error: RuntimeError) -> str:
    """The reason, without the lines about OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (told or lines or ["no reason given"])[0]
