"""An execution context aimed at one input shape, and its replay as a CUDA graph.

TensorRT's guide wants one context a captured graph: what a graph replays is the context's state at capture,
which must not change afterwards. TensorRT-RTX captures by itself, shape by shape, when its runtime
configuration says so; there kernels for a new shape are made before it runs first and not later in the
background, so that what the judge has judged is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinodeploy.backends.tensorrt.cuda import Cuda
from dinodeploy.backends.tensorrt.load import Engine
from dinodeploy.errors import reason_of


@dataclass(frozen=True)
class Scratch:
    """Device memory for the engine's inner values, used by one context at a time."""

    address: int
    size: int


def captures_by_itself(module: Any) -> bool:
    """TensorRT-RTX 1.1 and later."""
    return hasattr(module, "CudaGraphStrategy")


class AimedContext:
    """One IExecutionContext, for one thread at a time."""

    def __init__(self, engine: Engine, cuda: Cuda, scratch: Scratch) -> None:
        self._engine = engine
        self._cuda = cuda
        self._graph: Any = None
        self._context: Any = _create_context(engine)
        self._context.error_recorder = engine.errors
        self._context.set_device_memory(scratch.address, scratch.size)

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def aim(self, shape: tuple[int, ...], profile: int, stream: Any) -> dict[str, tuple[int, ...]]:
        """Choose `profile` and set the input's shape; the outputs' shapes by name."""
        context, engine = self._context, self._engine
        if context.active_optimization_profile != profile and not (
            context.set_optimization_profile_async(profile, int(stream))
        ):
            raise engine.fail(f"profile {profile} cannot be chosen")
        if not context.set_input_shape(engine.input, shape):
            raise engine.fail(f"input shape {list(shape)} is refused")
        try:
            unknown = context.infer_shapes()
        except RuntimeError as error:  # what the binding makes of TensorRT's own failure
            raise engine.fail(f"no shape is known: {reason_of(error)}") from error
        if unknown:
            raise engine.fail(f"no shape is known for {', '.join(unknown)}")
        return {name: tuple(context.get_tensor_shape(name)) for name in engine.outputs}

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Device addresses of the input and every output."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._engine.fail(f"the address of {name!r} is refused")

    def compute(self, stream: Any) -> None:
        """Give `stream` the computation: the graph where there is one."""
        if self._graph is not None:
            self._cuda.launch(self._graph, stream)
        elif not self._context.execute_async_v3(int(stream)):
            raise self._engine.fail("execution failed")

    def capture(self, stream: Any) -> None:
        """Keep what `compute` does as a graph. It must have run once since `aim` and `bind`."""
        kept: list[Any] = []
        try:
            with self._cuda.capture(stream, kept):
                self.compute(stream)
        finally:
            self._graph = kept[0] if kept else None

    def close(self) -> None:
        graph, self._graph, self._context = self._graph, None, None
        if graph is not None:
            self._cuda.destroy_graph(graph)


def _create_context(engine: Engine) -> Any:
    module = engine.module
    strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
    if captures_by_itself(module):
        config = engine.handle.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if engine.kernels is not None:
            engine.kernels.attach(config)
        context = engine.handle.create_execution_context(config)
    else:
        context = engine.handle.create_execution_context(strategy)
    if context is None:
        raise engine.fail("no execution context can be made")
    return context
