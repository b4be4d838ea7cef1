"""A recording stand-in for cuda-bindings' runtime: what a GPU would do, done late, in host memory.

Streams run nothing before somebody waits for them, and then only what that takes: a copy or a computation
that was not ordered by an event reads what is not there yet (every allocation starts as NaN). It counts what
is alive, refuses addresses it did not give out, and can be told to fail at any call.
"""

# ruff: noqa: N815 - CUDA's names

from __future__ import annotations

import ctypes
import enum
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NAN = 0xFF  # four of them are a NaN
LEGACY = 1  # cudaStreamLegacy


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class Kind(enum.Enum):
    cudaMemcpyHostToDevice = ("host", "device")
    cudaMemcpyDeviceToHost = ("device", "host")
    cudaMemcpyDeviceToDevice = ("device", "device")


class Mode(enum.Enum):
    cudaStreamCaptureModeThreadLocal = 1


class Attribute(enum.Enum):
    cudaDevAttrIntegrated = 18


@dataclass
class Operation:
    run: Callable[[], None]
    addresses: tuple[int, ...] = ()


@dataclass(eq=False)
class Stream:
    handle: int
    waiting: list[Operation] = field(default_factory=list)
    captured: list[Operation] | None = None
    broken: bool = False  # what was captured last cannot be
    destroyed: bool = False

    def __int__(self) -> int:
        return self.handle


@dataclass
class Marker:
    stream: Stream
    reached: bool = False


@dataclass(eq=False)
class Event:
    marker: Marker | None = None


@dataclass(eq=False)
class Graph:
    operations: list[Operation]


@dataclass
class Region:
    place: str  # device, host
    size: int
    memory: Any


class FakeCuda:
    """The module `cuda.bindings.runtime`. Every function returns `(error, result…)`."""

    cudaError_t = Error
    cudaMemcpyKind = Kind
    cudaStreamCaptureMode = Mode
    cudaDeviceAttr = Attribute
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.copied: Counter[str] = Counter()  # bytes, by kind
        self.regions: dict[int, Region] = {}
        self.streams: dict[int, Stream] = {LEGACY: Stream(LEGACY)}
        self.current = 0  # device of all threads
        self.alive: Counter[str] = Counter()
        self.fail: dict[tuple[str, int], Error] = {}  # (function, its nth call from 1) -> error
        self.computations: list[object] = []  # asked for and not run yet, in order
        self.last_error = Error.cudaSuccess  # what cudaGetLastError answers; it clears it
        self.free_memory = 20 << 30
        self.integrated = False
        self.driver = 12080
        self.lock = threading.RLock()

    @property
    def leaked(self) -> dict[str, int]:
        return {kind: count for kind, count in self.alive.items() if count}

    def _called(self, function: str) -> Error:
        self.calls.append(function)
        return self.fail.get((function, self.calls.count(function)), Error.cudaSuccess)

    def __getattribute__(self, name: str) -> Any:
        """Functions count themselves, fail when told to, and do not run at the same time."""
        value = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(value) or isinstance(value, type):
            return value

        def function(*arguments: Any) -> tuple[Any, ...]:
            with self.lock:
                error = self._called(name)
                if error:
                    self.last_error = error
                    if name == "cudaStreamEndCapture":
                        arguments[0].captured = None  # a capture that has failed is over, too
                    return (error, None) if name in RETURNING else (error,)
                result: tuple[Any, ...] = value(*arguments)
                if result[0] and name != "cudaGetLastError":
                    self.last_error = result[0]
                return result

        return function

    # ---- memory --------------------------------------------------------------------------------------

    def _allocate(self, place: str, size: int) -> tuple[Error, int]:
        assert size > 0, "CUDA gives no address for no bytes"
        assert self.current == 0, "on the GPU that another library made current"
        memory = (ctypes.c_uint8 * size)()
        ctypes.memset(memory, NAN, size)
        self.regions[ctypes.addressof(memory)] = Region(place, size, memory)
        self.alive[place] += 1
        return Error.cudaSuccess, ctypes.addressof(memory)

    def _release(self, place: str, address: int) -> tuple[Error]:
        region = self.regions.get(address)
        if region is None or region.place != place:
            return (Error.cudaErrorInvalidValue,)
        for stream in self.streams.values():
            for operation in stream.waiting:
                assert address not in operation.addresses, "freed while a stream still needs it"
        del self.regions[address]
        self.alive[place] -= 1
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Error, int]:
        return self._allocate("device", size)

    def cudaMemGetInfo(self) -> tuple[Error, int, int]:
        return Error.cudaSuccess, self.free_memory, 24 << 30

    def cudaDeviceGetAttribute(self, attribute: Attribute, device: int) -> tuple[Error, int]:
        assert (attribute, device) == (Attribute.cudaDevAttrIntegrated, 0)
        return Error.cudaSuccess, int(self.integrated)

    def cudaDriverGetVersion(self) -> tuple[Error, int]:
        return Error.cudaSuccess, self.driver

    def cudaFree(self, address: int) -> tuple[Error]:
        return self._release("device", address)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Error, int]:
        return self._allocate("host", size)

    def cudaFreeHost(self, address: int) -> tuple[Error]:
        return self._release("host", address)

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: Kind, stream: Stream) -> tuple[Error]:
        source, target = kind.value
        if self.place(of, size) != source or self.place(to, size) != target:
            return (Error.cudaErrorInvalidValue,)
        self.copied[kind.name] += size
        return self.give(stream, lambda: ctypes.memmove(to, of, size), (to, of))

    def place(self, address: int, size: int) -> str | None:
        """Where `size` bytes from an address lie, if they were all given out."""
        for start, region in self.regions.items():
            if start <= address and address + size <= start + region.size:
                return region.place
        return None

    # ---- devices -------------------------------------------------------------------------------------

    def cudaGetDevice(self) -> tuple[Error, int]:
        return Error.cudaSuccess, self.current

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        self.current = device
        return (Error.cudaSuccess,)

    def cudaDeviceSynchronize(self) -> tuple[Error]:
        """It may not be called while any stream is captured, and ends the capture."""
        capturing = [stream for stream in self.streams.values() if stream.captured is not None]
        for stream in capturing:
            stream.broken = True
        if capturing:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        for stream in self.streams.values():
            if not stream.destroyed:
                self.cudaStreamSynchronize(stream)
        return (Error.cudaSuccess,)

    # ---- streams and events --------------------------------------------------------------------------

    def stream(self, stream: Stream | int) -> Stream:
        """The bindings take a handle as an integer too."""
        found = self.streams[stream] if isinstance(stream, int) else stream
        assert not found.destroyed, "used after it was destroyed"
        return found

    def give(self, stream: Stream, run: Callable[[], Any], addresses: tuple[int, ...] = ()) -> tuple[Error]:
        """What a stream is to do when its turn comes."""
        target = stream.waiting if stream.captured is None else stream.captured
        target.append(Operation(run, addresses))
        return (Error.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, Stream]:
        assert flags == self.cudaStreamNonBlocking, "the default stream would wait for this one"
        stream = Stream(1000 + len(self.streams))
        self.streams[stream.handle] = stream
        self.alive["stream"] += 1
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[Error]:
        assert not stream.waiting, "destroyed with work waiting"
        self.alive["stream"] -= 1
        stream.destroyed = True
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Stream | int) -> tuple[Error]:
        stream = self.stream(stream)
        if stream.captured is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        while stream.waiting:
            stream.waiting.pop(0).run()
        return (Error.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Error, Event]:
        self.alive["event"] += 1
        return Error.cudaSuccess, Event()

    def cudaEventDestroy(self, event: Event) -> tuple[Error]:
        self.alive["event"] -= 1
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event: Event) -> tuple[Error]:
        assert event.marker is not None, "waits for an event that was never recorded"
        while not event.marker.reached:
            event.marker.stream.waiting.pop(0).run()
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: Event, stream: Stream | int) -> tuple[Error]:
        stream = self.stream(stream)
        marker = event.marker = Marker(stream)
        return self.give(stream, lambda: setattr(marker, "reached", True))

    def cudaStreamWaitEvent(self, stream: Stream | int, event: Event, flags: int) -> tuple[Error]:
        stream = self.stream(stream)
        marker = event.marker
        assert marker is not None, "waits for an event that was never recorded"

        def wait() -> None:
            while not marker.reached:
                marker.stream.waiting.pop(0).run()

        return self.give(stream, wait)

    # ---- graphs --------------------------------------------------------------------------------------

    def cudaStreamBeginCapture(self, stream: Stream, mode: Mode) -> tuple[Error]:
        assert isinstance(mode, Mode)
        stream.captured = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Error, Graph | None]:
        operations, stream.captured = stream.captured, None
        assert operations is not None
        if stream.broken:
            stream.broken = False
            return Error.cudaErrorStreamCaptureInvalidated, None
        self.alive["graph"] += 1
        return Error.cudaSuccess, Graph(operations)

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple[Error, Graph]:
        self.alive["executable"] += 1
        return Error.cudaSuccess, Graph(graph.operations)

    def cudaGraphDestroy(self, graph: Graph) -> tuple[Error]:
        self.alive["graph"] -= 1
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: Graph) -> tuple[Error]:
        self.alive["executable"] -= 1
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, graph: Graph, stream: Stream) -> tuple[Error]:
        for operation in graph.operations:
            self.computations.append(operation)
            self.give(stream, operation.run, operation.addresses)
        return (Error.cudaSuccess,)

    # ---- errors --------------------------------------------------------------------------------------

    def cudaGetErrorName(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, b"something went wrong on the GPU"

    def cudaGetLastError(self) -> tuple[Error]:
        error, self.last_error = self.last_error, Error.cudaSuccess
        return (error,)


# Functions that return something beside their error.
RETURNING = (
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaMemGetInfo",
    "cudaGetDevice",
    "cudaDeviceGetAttribute",
    "cudaStreamCreateWithFlags",
    "cudaEventCreateWithFlags",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
)
