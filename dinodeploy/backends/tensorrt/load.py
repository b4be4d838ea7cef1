"""A plan becomes an engine: deserialised, refitted if its weights were left out, its tensors checked.

Errors come through TensorRT's error recorder, one an object: of loggers only the first of a process is
used, which may be somebody else's.
"""

from __future__ import annotations

import functools
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.backends import OpenOptions
from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.backends.tensorrt.refuse import rebuild_command
from dinodeploy.backends.tensorrt.runtime_cache import RuntimeCache
from dinodeploy.bundle.manifest import BuildFacts
from dinodeploy.errors import BundleError, MisuseError, UnavailableError


@dataclass(frozen=True)
class Engine:
    """A deserialised engine. `runtime` and `errors` have to live as long as it does."""

    module: Any
    handle: Any  # ICudaEngine
    runtime: Any
    errors: Any
    plan: Path
    input: str
    outputs: tuple[str, ...]
    streams_weights: bool
    kernels: RuntimeCache | None = None  # TensorRT-RTX compiles them when a context is made

    def fail(self, what: str) -> UnavailableError:
        """What TensorRT says of a call that returned False."""
        return UnavailableError(f"{self.plan.name}: {what}: {self.errors.take()}")


# Left free beside the weights of a weight-streaming engine: inputs, outputs and what contexts keep.
RESERVE_BYTES, RESERVE_SHARE = 512 << 20, 1 / 8


def load_engine(module: Any, plan: Path, build: BuildFacts, options: OpenOptions, cuda: Cuda) -> Engine:
    """Deserialise `plan`, whose hash has been checked, with the TensorRT `module`.

    Raises UnavailableError where TensorRT refuses, BundleError for a plan that is not one of ours,
    MisuseError for a weight budget that the plan has no use for.
    """
    errors = _recorder_class(module)()
    runtime = module.Runtime(_silent_logger(module))
    runtime.error_recorder = errors
    if build.version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan carries its runtime with it
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        handle = runtime.deserialize_cuda_engine(content)
    if handle is None:
        raise UnavailableError(
            f"{plan.name}: {module.__name__} {module.__version__} cannot load it: {errors.take()}; "
            f"build it here: {rebuild_command(plan, module.__name__)}"
        )
    handle.error_recorder = errors
    source, outputs = _check_tensors(module, handle, plan)
    engine = Engine(module, handle, runtime, errors, plan, source, outputs, build.weight_streaming)
    if build.stripped:
        _refit(engine, plan.parent / build.source)
    _set_budget(engine, build, options.weight_budget, cuda)
    return engine


def _check_tensors(module: Any, handle: Any, plan: Path) -> tuple[str, tuple[str, ...]]:
    """The names of the one input and of the outputs.

    Raises BundleError unless all are float32 on the GPU; the input may be uint8.
    """
    sides: dict[Any, list[str]] = {module.TensorIOMode.INPUT: [], module.TensorIOMode.OUTPUT: []}
    for index in range(handle.num_io_tensors):
        name = handle.get_tensor_name(index)
        kind = handle.get_tensor_dtype(name)
        is_bytes = kind == module.DataType.UINT8 and handle.get_tensor_mode(name) == module.TensorIOMode.INPUT
        known = kind == module.DataType.FLOAT or is_bytes
        if not known or handle.get_tensor_location(name) != module.TensorLocation.DEVICE:
            raise BundleError(
                f"{plan.name}: tensor {name!r} is {kind}; wanted float32 in GPU memory; "
                f"build it from this bundle's graph: {rebuild_command(plan, module.__name__)}"
            )
        sides[handle.get_tensor_mode(name)].append(name)
    inputs, outputs = sides.values()
    if len(inputs) != 1:
        raise BundleError(
            f"{plan.name} has the inputs {', '.join(inputs) or 'none'}; wanted one, the pixels; "
            f"build it from this bundle's graph: {rebuild_command(plan, module.__name__)}"
        )
    return inputs[0], tuple(outputs)


def _refit(engine: Engine, source: Path) -> None:
    """Give a stripped engine the weights of the graph it was built from."""
    module, logger = engine.module, _silent_logger(engine.module)
    refitter = module.Refitter(engine.handle, logger)
    refitter.error_recorder = engine.errors
    parser = module.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(source)):
        said = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise UnavailableError(
            f"{engine.plan.name} was built without weights and cannot take those of {source.name}: "
            f"{said or engine.errors.take()}; build it with them: "
            f"{rebuild_command(engine.plan, module.__name__)}"
        )
    missing = refitter.get_missing_weights()
    if missing or not refitter.refit_cuda_engine():
        raise engine.fail(
            f"refitting from {source.name} left {len(missing)} weights missing"
            + (f", first {missing[0]}" if missing else "")
        )


def _set_budget(engine: Engine, build: BuildFacts, budget: int | None, cuda: Cuda) -> None:
    """How much of a weight-streaming engine's weights stays on the GPU; as much as fits by default.

    TensorRT's own choice is of no use: its Python binding cuts the number to 32 bits
    (`get_weight_streaming_automatic_budget` in NVIDIA/TensorRT, python/src/infer/pyCore.cpp, 10.3 to 11.1).
    A budget that is refused raises no error there, so it is read back.
    """
    if not build.weight_streaming:
        if budget is not None:
            command = rebuild_command(engine.plan, engine.module.__name__, " --weight-streaming")
            raise MisuseError(
                f"{engine.plan.name} keeps all its weights on the GPU, a weight budget means nothing to it; "
                f"build it for one: {command}"
            )
        return
    handle = engine.handle
    if budget is None:
        handle.weight_streaming_budget_v2 = 0  # the scratch memory is largest then
        free = cuda.free_memory()
        reserve = max(RESERVE_BYTES, int(free * RESERVE_SHARE))
        budget = max(free - handle.device_memory_size_v2 - reserve, 0)
    budget = min(budget, handle.streamable_weights_size)
    handle.weight_streaming_budget_v2 = budget
    if handle.weight_streaming_budget_v2 != budget:
        raise engine.fail(f"a weight budget of {budget} bytes is refused")


@functools.cache
def _silent_logger(module: Any) -> Any:
    """One a process, never let go: TensorRT keeps using the first one it was given."""

    class Silent(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            pass

    return Silent()


@functools.cache
def _recorder_class(module: Any) -> Any:
    """`IErrorRecorder`, keeping what it is told until asked."""

    class Recorder(module.IErrorRecorder):
        def __init__(self) -> None:
            module.IErrorRecorder.__init__(self)
            self._errors: list[tuple[Any, str]] = []

        def take(self) -> str:
            """The first error since the last time, on one line: what follows it is its consequence."""
            first = " ".join(self._errors[0][1].split()) if self._errors else "TensorRT does not say why"
            self._errors.clear()
            return first

        def report_error(self, code: Any, description: str) -> bool:
            self._errors.append((code, description))
            return False  # not fatal: the call that failed says so too

        def num_errors(self) -> int:
            return len(self._errors)

        def get_error_code(self, index: int) -> Any:
            return self._errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self._errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self._errors.clear()

    return Recorder
