"""Run ONNX graphs with OpenVINO on the CPU, in the precision that the recipe allows and no lower.

OpenVINO lowers fp32 to bf16 automatically where the CPU supports it. Here the precision is always explicit:
f32, unless the recipe allows bf16 (`PRECISIONS`) and the CPU has the instructions.

A model compiled for one input shape is 5 to 15 % faster than one that accepts any. So an fp32 engine has a
compiled model for each of the first shapes it meets, and one for all others. Low-precision recipes have only
that one: static and dynamic kernels round differently at 1e-7, which 8 bits and 16 bits turn into 1e-2 and
1e-3, and an image's embedding must not depend on the batch it came in.

Shapes: B batch, H W input pixels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import OpenOptions
from dinodeploy.backends.parallel import PIXELS_PER_RUN, in_parts, parallel_runs_for
from dinodeploy.bundle.manifest import METADATA_KEY
from dinodeploy.errors import BundleError, UnavailableError
from dinodeploy.files.json_file import parse_json
from dinodeploy.hardware.devices import cpu_name
from dinodeploy.hardware.telemetry import silence_openvino

Shape = tuple[int, ...]

# recipe -> what OpenVINO may compute in, where the CPU can (its name for the capability)
PRECISIONS: dict[str, tuple[str, str]] = {"bf16": ("bf16", "BF16"), "int8": ("bf16", "BF16")}
SPECIALISED = ("fp32",)  # recipes with a compiled model for each shape

SHAPES = 2  # compiled for one shape each, besides the general one; each has its own copy of the weights
LARGE = 1 << 30  # bytes of weights past which there is one
IN_A_ROW = 8  # consecutive runs of another shape before it replaces the oldest
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
        self._room = _room(self._model) if recipe in SPECIALISED else 0
        self._compiled: OrderedDict[Shape, _Compiled] = OrderedDict()  # least recently used first
        self._any: _Compiled | None = None
        self._last: tuple[Shape, int] = ((), 0)  # the last shape of the general model, and how often in a row
        self._lock = threading.Lock()

    def takes(self, height: int, width: int) -> bool:
        return True

    def run(self, pixels: FloatArray) -> dict[str, FloatArray]:
        values = in_parts(lambda part: self.compiled_for(part.shape).run(part), pixels, self._at_once)
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._compiled.clear()
        self._any = self._model = None

    def compiled_for(self, shape: Shape) -> _Compiled:
        """The model compiled for `shape`, compiled now if there is room; else the general one."""
        with self._lock:
            if shape in self._compiled:
                self._compiled.move_to_end(shape)
                return self._compiled[shape]
            if not self._has_earned_it(shape):
                if self._any is None:
                    self._any = self._compile(self._model)
                return self._any
            if len(self._compiled) == self._room:
                self._compiled.popitem(last=False)
            model = self._read()
            model.reshape({0: self._openvino.PartialShape(list(shape))})
            self._compiled[shape] = self._compile(model)
            return self._compiled[shape]

    def _has_earned_it(self, shape: Shape) -> bool:
        if len(self._compiled) < self._room:
            return True
        last, times = self._last
        self._last = (shape, times + 1 if shape == last else 1)
        return self._room > 0 and self._last[1] > IN_A_ROW

    def _read(self) -> Any:
        try:
            return self._core.read_model(self._engine)
        except RuntimeError as error:  # the class of all its errors
            raise BundleError(f"{self._engine}: OpenVINO cannot load it: {_reason(error)}") from error

    def _compile(self, model: Any) -> _Compiled:
        try:
            return _Compiled(self._core.compile_model(model, "CPU", self._settings))
        except RuntimeError as error:
            raise UnavailableError(
                f"{self._engine.name}: {self.runtime} cannot run it on {self.device}: {_reason(error)}"
            ) from error


class _Compiled:
    """A compiled model and its requests: one per parallel run."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []

    def run(self, pixels: FloatArray) -> list[FloatArray]:
        try:
            request = self._idle.pop()  # list.pop and append are atomic
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            return [np.array(value) for value in request.infer({0: pixels}, share_outputs=True).values()]
        finally:
            self._idle.append(request)


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
        asked |= {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": parallel_runs,
            "INFERENCE_NUM_THREADS": parallel_runs,
        }
    elif threads is not None:
        asked["INFERENCE_NUM_THREADS"] = threads
    return f"openvino {version}" + ("" if precision == "f32" else f" {precision}"), asked


def precision_for(recipe: str, capabilities: list[str]) -> str:
    precision, capability = PRECISIONS.get(recipe, ("f32", ""))
    return precision if capability in capabilities else "f32"


def _room(model: Any) -> int:
    """How many shapes may have their own compiled model."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return SHAPES if sum(node.get_byte_size() for node in constants) < LARGE else 1


def _reason(error: RuntimeError) -> str:
    """The reason, without the lines about OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (told or lines or ["no reason given"])[0]
