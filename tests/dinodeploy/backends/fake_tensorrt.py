"""A recording stand-in for TensorRT whose surface is that of one version's API list, and nothing beyond it.

A plan of it is a line of JSON that names an ONNX file; executing it runs ONNX Runtime between the device
addresses it was given, on the fake GPU of `fake_cuda.py`. What TensorRT answers with False and a word to the
error recorder, it does; what TensorRT leaves undefined, it asserts.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.dinodeploy.backends.fake_cuda import FakeCuda

API_LISTS = Path(__file__).parents[2] / "data" / "trt_api"
Api = Mapping[str, Collection[str]]
SCRATCH, STREAMING_SCRATCH = 4096, 1 << 20


def read_api(version: str) -> Api:
    """Class -> its public names, for "10.3" or "11.4"."""
    listed = json.loads((API_LISTS / f"api_{version}.json").read_text())
    return {name: members for name, members in listed.items() if isinstance(members, list)}


def real_api(module: Any) -> Api:
    """The same of an installed module."""
    return {
        name: [member for member in dir(value) if not member.startswith("_")]
        for name, value in vars(module).items()
        if isinstance(value, type)
    }


def write_plan(path: Path, onnx: Path, *profiles: list[list[int]], **facts: Any) -> None:
    """A plan of the fake: `profiles` are [min, opt, max] of [B, H, W]."""
    path.write_text(json.dumps({"onnx": str(onnx), "profiles": profiles, **facts}))


@functools.cache
def session(onnx: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])


def takes_bytes(onnx: Any) -> bool:
    """Whether the input is uint8 [B,H,W,3], in place of float32 [B,3,H,W]."""
    return bool(onnx.get_inputs()[0].type == "tensor(uint8)")


class FakeTensorRT:
    """A TensorRT module of one version, on a fake GPU."""

    def __init__(self, api: Api, cuda: FakeCuda, name: str = "tensorrt", version: str = "10.3.0") -> None:
        self.__name__ = name
        self.__version__ = version
        self._api = api
        self.cuda = cuda
        self.calls: list[tuple[str, Any]] = []
        self.refuse: set[str] = set()  # methods that say no
        self.alive = 0  # execution contexts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._api:
            raise AttributeError(f"{self.__name__} {self.__version__} has no {name}")
        made = self._make(name)
        self.__dict__[name] = made
        return made

    def _make(self, name: str) -> Any:
        members = self._api[name]
        if name in IMPLEMENTED:
            return _surfaced(name, IMPLEMENTED[name], members, self)
        if all(member.isupper() for member in members if member not in ("name", "value", "itemsize")):
            return enum.Enum(name, [member for member in members if member.isupper()])  # type: ignore[misc]
        return _surfaced(name, Bare, members, self)

    def called(self, method: str) -> list[Any]:
        return [arguments for name, arguments in self.calls if name == method]


def _surfaced(name: str, implementation: type, members: Collection[str], module: FakeTensorRT) -> type:
    """`implementation` without the public names that this version lacks, every call recorded."""

    def recorded(method_name: str, method: Any) -> Any:
        @functools.wraps(method)
        def call(self: Any, *arguments: Any) -> Any:
            with module.cuda.lock:
                module.calls.append((method_name, arguments))
                if method_name in module.refuse:
                    self.complain(f"{method_name} was told to fail")
                    return REFUSALS.get(method_name, False)
                return method(self, *arguments)

        return call

    def assign(self: Any, attribute: str, value: Any) -> None:
        if not attribute.startswith("_"):
            if attribute not in members:
                raise AttributeError(f"{name} of {module.__name__} {module.__version__} has no {attribute}")
            module.calls.append((attribute, value))
        object.__setattr__(self, attribute, value)

    def complain(self: Any, text: str) -> None:
        recorder = getattr(self, "error_recorder", None) or getattr(self, "_recorder", None)
        if recorder is not None and recorder.report_error(1, text):
            raise AssertionError("told TensorRT that the error is fatal")

    body: dict[str, Any] = {"__setattr__": assign, "complain": complain, "_module": module}
    for attribute, value in vars(implementation).items():
        if attribute.startswith("_") or attribute in members:
            public_method = callable(value) and not attribute.startswith("_")
            body[attribute] = recorded(attribute, value) if public_method else value
    body.pop("__dict__", None)
    body.pop("__weakref__", None)
    return type(name, (), body)


class Bare:
    """A class that only has to exist: to be subclassed, or to be handed on."""

    def __init__(self, *arguments: Any) -> None:
        pass


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: Any) -> Any:
        module: FakeTensorRT = self._module  # type: ignore[attr-defined]
        try:
            facts = json.loads(bytes(plan))
        except ValueError:
            self.complain("Serialization assertion\nmagicTag failed")  # type: ignore[attr-defined]
            return None
        return module.ICudaEngine(facts)


class Engine:
    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        self._session = session(facts["onnx"])
        inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]
        self._inputs = inputs + facts.get("more_inputs", [])
        self._weights = not facts.get("stripped", False)
        self._budget: int | None = None  # streaming is off until a budget is set

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._facts["profiles"])

    @property
    def device_memory_size_v2(self) -> int:
        """With the memory that streaming needs beside it, which depends on the budget."""
        streaming = self._budget is not None and self._budget < self.streamable_weights_size
        return int(self._facts.get("scratch", SCRATCH)) + streaming * STREAMING_SCRATCH

    @property
    def streamable_weights_size(self) -> int:
        return int(self._facts.get("streamable", 1000))

    def get_weight_streaming_automatic_budget(self) -> int:
        """The binding returns `int32_t` (pyCore.cpp): what is above is lost."""
        return ctypes.c_int32(self.streamable_weights_size * 7 // 10).value

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self.streamable_weights_size if self._budget is None else self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        """The binding drops the answer of `setWeightStreamingBudgetV2`: a refusal is silent."""
        if budget >= 0 and "weight_streaming_budget_v2" not in self._module.refuse:  # type: ignore[attr-defined]
            self._budget = budget

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._module.TensorIOMode  # type: ignore[attr-defined]
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        types = self._module.DataType  # type: ignore[attr-defined]
        if name in self._inputs and takes_bytes(self._session):
            return types.UINT8
        return types.HALF if name in self._facts.get("half", ()) else types.FLOAT

    def get_tensor_location(self, name: str) -> Any:
        return self._module.TensorLocation.DEVICE  # type: ignore[attr-defined]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        if takes_bytes(self._session):
            return [(b, h, w, 3) for b, h, w in self._facts["profiles"][index]]
        return [(b, 3, h, w) for b, h, w in self._facts["profiles"][index]]

    def create_runtime_config(self) -> Any:
        return self._module.IRuntimeConfig()  # type: ignore[attr-defined]

    def create_execution_context(self, how: Any) -> Any:
        module: FakeTensorRT = self._module  # type: ignore[attr-defined]
        strategy = how if isinstance(how, enum.Enum) else how._strategy
        assert strategy == module.ExecutionContextAllocationStrategy.USER_MANAGED
        return module.IExecutionContext(self)


class RuntimeConfig:
    def __init__(self) -> None:
        self._strategy: Any = None
        self.cuda_graph_strategy: Any = None
        self.dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self._module.IRuntimeCache()  # type: ignore[attr-defined]

    def set_runtime_cache(self, cache: Any) -> bool:
        cache._kernels |= {"gemm", "mha"}
        return True


class RuntimeCache:
    """Kernels by name; refuses what another version serialised."""

    _BEGIN = b"kernels 1.7\n"

    def __init__(self) -> None:
        self._kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self._BEGIN):
            return False
        self._kernels |= set(blob.removeprefix(self._BEGIN).decode().split())
        return True

    def serialize(self) -> bytes:
        return self._BEGIN + " ".join(sorted(self._kernels)).encode()


class Context:
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._recorder = engine.error_recorder
        self._profile = 0
        self._shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self._ran = False  # since shape and addresses were set
        self._captured = False
        self._module.alive += 1  # type: ignore[attr-defined]

    def __del__(self) -> None:
        self._module.alive -= 1  # type: ignore[attr-defined]

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_device_memory(self, address: int, size: int) -> None:
        assert address in self._module.cuda.regions  # type: ignore[attr-defined]
        assert size >= self._engine.device_memory_size_v2
        self._scratch = address

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert type(stream) is int
        assert not self._captured, "changed after a graph was captured of it"
        self._profile, self._shape = index, None
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self._captured, "changed after a graph was captured of it"
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(low <= side <= high for low, side, high in zip(smallest, shape, largest, strict=True)):
            self.complain(f"shape {shape} is outside profile {self._profile}")  # type: ignore[attr-defined]
            return False
        self._shape, self._ran = shape, False
        return True

    def infer_shapes(self) -> list[str]:
        if self._engine._facts.get("inference_fails"):
            raise RuntimeError("infer_shapes error code: -1")
        return [] if self._shape else list(self._engine._inputs)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._shape is not None, "asked for before the input's shape was set"
        batch, *rest = self._shape
        height, width = rest[:2] if takes_bytes(self._engine._session) else rest[1:]
        patch = self._engine._facts.get("patch", 16)
        sizes = {"batch": batch, "rows": height // patch, "columns": width // patch}
        for tensor in self._engine._session.get_outputs():
            if tensor.name == name:
                return tuple(sizes[side] if isinstance(side, str) else side for side in tensor.shape)
        raise KeyError(name)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self._captured, "changed after a graph was captured of it"
        self._addresses[name], self._ran = address, False
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert type(stream) is int
        cuda: FakeCuda = self._module.cuda  # type: ignore[attr-defined]
        tensors = {*self._engine._inputs, *self._engine._outputs}
        if self._shape is None or set(self._addresses) != tensors or not self._scratch:
            self.complain("shapes, addresses or memory are not set")  # type: ignore[attr-defined]
            return False
        if not self._engine._weights:
            self.complain("the weights are missing")  # type: ignore[attr-defined]
            return False
        lane = cuda.streams[stream]
        if cuda.last_error:  # a launch asks for CUDA's last error, of any caller
            self.complain(f"Cuda Runtime: {cuda.cudaGetLastError()[0].name}")  # type: ignore[attr-defined]
            return False
        if lane.captured is not None and self._engine._facts.get("uncapturable"):
            lane.broken = True
            self.complain("operation not permitted when stream is capturing")  # type: ignore[attr-defined]
            return False
        if lane.captured is not None:
            assert self._ran, "captured before it ran with these shapes and addresses"
            self._captured = True
        self._ran = True
        run = functools.partial(compute, cuda, self._engine._session, self._shape, dict(self._addresses))
        operation = functools.partial(in_turn, cuda, run, self._scratch)
        cuda.give(lane, operation, (self._scratch, *self._addresses.values()))
        if lane.captured is None:
            cuda.computations.append(lane.waiting[-1])
        return True


def in_turn(cuda: FakeCuda, run: Any, scratch: int) -> None:
    """Computations that share scratch memory must run in the order in which they were asked for."""
    waiting: Any = cuda.computations
    first = next(one for one in waiting if one.run.args[2] == scratch)
    assert first.run.args[1] is run, "a computation overtook another that uses the same memory"
    waiting.remove(first)
    run()


def compute(cuda: FakeCuda, onnx: Any, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
    """What the kernels do: read the input's memory, write the outputs'."""
    pixels = onnx.get_inputs()[0].name
    dtype = np.dtype(np.uint8 if takes_bytes(onnx) else np.float32)
    size = int(np.prod(shape)) * dtype.itemsize
    assert cuda.regions[addresses[pixels]].size >= size
    memory = ctypes.string_at(addresses[pixels], size)
    feed = {pixels: np.frombuffer(memory, dtype).reshape(shape)}
    names = [output.name for output in onnx.get_outputs()]
    for name, value in zip(names, onnx.run(names, feed), strict=True):
        content = np.ascontiguousarray(value, np.float32).tobytes()
        assert cuda.regions[addresses[name]].size >= len(content), f"{name} does not fit its memory"
        ctypes.memmove(addresses[name], content, len(content))


class Refitter:
    def __init__(self, engine: Any, logger: Any) -> None:
        self._engine = engine
        self._given = False

    def get_missing_weights(self) -> list[str]:
        return [] if self._given else ["blocks.0.mlp.fc1.weight"]

    def refit_cuda_engine(self) -> bool:
        self._engine._weights = True
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Any, logger: Any) -> None:
        self._refitter = refitter

    @property
    def num_errors(self) -> int:
        return int("refit_from_file" in self._module.refuse)  # type: ignore[attr-defined]

    def get_error(self, index: int) -> Any:
        return self._module.ParserError()  # type: ignore[attr-defined]

    def refit_from_file(self, path: str) -> bool:
        assert Path(path).is_file()
        self._refitter._given = True
        return True


class ParserError:
    def desc(self) -> str:
        return "the weights have other shapes"


IMPLEMENTED: dict[str, type] = {
    "Runtime": Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "IRuntimeConfig": RuntimeConfig,
    "IRuntimeCache": RuntimeCache,
    "Refitter": Refitter,
    "OnnxParserRefitter": OnnxParserRefitter,
    "ParserError": ParserError,
}
# What a method answers when it refuses, where that is not False.
REFUSALS: dict[str, Any] = {
    "deserialize_cuda_engine": None,
    "create_execution_context": None,
    "infer_shapes": ["pixels"],
    "get_missing_weights": ["blocks.0.mlp.fc1.weight"],
}
