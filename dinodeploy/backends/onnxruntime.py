"""Run ONNX graphs with ONNX Runtime: on the CPU, or on a GPU with its CUDA provider.

Its TensorRT provider is not used: it has no option to turn TF32 off (microsoft/onnxruntime issues 26029 and
28177), and builds an engine for each new input size, which the judge has not seen. A plan does both right.

ONNX Runtime silently falls back to the CPU when a provider is missing, and node by node even when it is
there. Neither is accepted here: the requested provider must be the session's first and must run every node
that does the work, or the engine is not opened. A provider leaves the small integer arithmetic on shapes to
the CPU on purpose; what must not end up there are the operators in `WORK`.

A GPU runs BUNDLE/model.onnx, whose types are the recipe's; a 16-bit recipe's model.cpu.onnx is for CPUs.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray
from dinodeploy.backends import OpenOptions
from dinodeploy.backends.gpu_arrays import GpuPixels
from dinodeploy.backends.onnxruntime_gpu import OnnxRuntimeGpu
from dinodeploy.backends.parallel import PIXELS_PER_RUN, in_parts, parallel_runs_for
from dinodeploy.bundle.manifest import METADATA_KEY, WEIGHTS_FILE, BuildFacts
from dinodeploy.errors import BundleError, UnavailableError, reason_of
from dinodeploy.files.json_file import parse_json, read_json
from dinodeploy.hardware.cores import cores, restricted
from dinodeploy.hardware.devices import cpu_name, find_gpu
from dinodeploy.hardware.telemetry import silence_onnxruntime

_ERRORS_ONLY = 3
# Bytes of weights past which a CPU keeps them in the memory-mapped file. A 16-bit recipe's CPU graph casts
# each weight to fp32 where it is used; ONNX Runtime would cast all of them on opening: 27 GB for a 7B.
LARGE = 4 << 30
# Pixels per run on a CPU. ONNX Runtime's matrix products go through all rows of a batch before the next
# columns: with more rows than the caches hold, an image costs up to a fifth more (benchmarks/LOG.md).
PIXELS_AT_ONCE = 320 * 1024
_PROBE = (1, 3, 32, 48)  # an image of 2 x 3 patches, to see where nodes run
TOKEN_IDS = "token_ids"  # the input of a text graph
_TEXT_PROBE = (1, 8)
# The operators of our graphs that do the work, and what ONNX Runtime's optimiser fuses them to.
WORK = frozenset({
    "Attention", "BiasGelu", "Conv", "Erf", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu",
    "Gemm", "LayerNormalization", "MatMul", "MatMulInteger", "MultiHeadAttention", "NhwcConv",
    "QLinearMatMul", "QuickGelu", "RMSNormalization", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "Softmax",
})  # fmt: skip


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers and its options."""

    name: str
    suffix: str  # of the runtime's name in receipts
    options: dict[str, str]
    fix: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.name != "CPUExecutionProvider"


PROVIDERS: dict[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "", {}),
    "cuda": Provider(
        "CUDAExecutionProvider",
        " cuda",
        # fp32 means fp32: TF32 has a ten-bit mantissa. One convolution needs no exhaustive search.
        {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
        fix="pip install onnxruntime-gpu in place of onnxruntime, for your CUDA, with cuDNN 9",
    ),
}


def open_cpu(engine: Path, options: OpenOptions) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(engine, PROVIDERS["cpu"], f"cpu: {cpu_name()}", options)


def open_cuda(engine: Path, options: OpenOptions) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(engine, PROVIDERS["cuda"], find_gpu().device, options)


def check_cuda(engine: Path, build: BuildFacts | None) -> None:
    """Raise UnavailableError where no graph can run on CUDA."""
    find_gpu()
    _import_onnxruntime(PROVIDERS["cuda"])


class OnnxRuntimeBackend:
    """One InferenceSession; sessions are safe to share between threads.

    By default there is one thread per physical core. ONNX Runtime counts cores, unless this process may use
    fewer: it would count, and pin threads to, cores that the process must not use.
    """

    def __init__(
        self, engine: Path, provider: Provider, device: str, options: OpenOptions | None = None
    ) -> None:
        onnxruntime = _import_onnxruntime(provider)
        self.runtime = f"onnxruntime {onnxruntime.__version__}{provider.suffix}"
        self.device = device
        options = options or OpenOptions()
        large = _weight_bytes(engine) > LARGE
        self.parallel_runs = 1 if provider.on_gpu or large else parallel_runs_for(options)
        threads = 1 if self.parallel_runs > 1 else options.threads or (cores() if restricted() else None)
        alone = threads == 1 and not large  # a cluster worker has one thread too
        self._at_once = None if provider.on_gpu else PIXELS_PER_RUN if alone else PIXELS_AT_ONCE
        place = tempfile.TemporaryDirectory(prefix="dinodeploy_") if provider.on_gpu else nullcontext("")
        with place as folder:  # for a profile; a CPU needs no disk that can be written
            self._session: Any = _open_session(
                onnxruntime, engine, provider, threads, Path(folder), in_file=large and not provider.on_gpu
            )
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
            self._input = self._session.get_inputs()[0].name
            self._outputs = [output.name for output in self._session.get_outputs()]
            if provider.on_gpu:
                self._check_placement(engine, provider)
        self.gpu = OnnxRuntimeGpu(self._session, self._input, self._outputs) if provider.on_gpu else None

    def takes(self, height: int, width: int) -> bool:
        return True

    def run(
        self, pixels: AnyArray | GpuPixels, outputs: Sequence[str] | None = None
    ) -> dict[str, FloatArray]:
        if isinstance(pixels, GpuPixels):
            assert self.gpu is not None, "who else borrowed it?"
            return self.gpu.run(pixels, outputs)
        names = self._outputs if outputs is None else list(outputs)  # the others are not copied from a GPU
        values = in_parts(lambda part: self._session.run(names, {self._input: part}), pixels, self._at_once)
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        self._session = None
        if self.gpu is not None:
            self.gpu.close()

    def _check_placement(self, engine: Path, provider: Provider) -> None:
        """Raises UnavailableError when another provider than the one asked for does the work."""
        try:
            pixels = probe_of(self.metadata)
            if self._input == TOKEN_IDS:
                probe: Any = np.zeros(_TEXT_PROBE, np.int64)
            elif self._session.get_inputs()[0].type == "tensor(uint8)":
                batch, channels, height, width = pixels
                probe = np.zeros((batch, height, width, channels), np.uint8)
            else:
                probe = np.zeros(pixels, np.float32)
            nodes = profiled(self._session, lambda: self.run(probe))
        except Exception as error:  # its exception classes are private
            raise UnavailableError(
                f"{engine.name}: {self.runtime} cannot run it on {self.device}: {reason_of(error)}"
            ) from error
        elsewhere = astray(nodes, provider.name)
        if elsewhere or not any(node.provider == provider.name for node in nodes):
            first = elsewhere[0] if elsewhere else nodes[0]
            raise UnavailableError(
                f"{engine.name}: {provider.name} leaves {len(elsewhere)} of {len(nodes)} nodes to others, "
                f"first {first.op} {first.name} to {first.provider}; use --device cpu, or another version of "
                "onnxruntime-gpu"
            )


def probe_of(metadata: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Shape of the pixels to see where nodes run: of a whole model, which may take no other, its own size."""
    facts = parse_json(metadata.get(METADATA_KEY, "{}"), METADATA_KEY, "manifest")
    if not facts.get("graph", {}).get("backbones"):
        return _PROBE
    return 1, 3, facts["preprocess"]["height"], facts["preprocess"]["width"]


def _import_onnxruntime(provider: Provider) -> Any:
    """The package, which must have the provider. Raises UnavailableError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"onnxruntime cannot be imported ({error}); install it: pip install onnxruntime"
        ) from error
    silence_onnxruntime(onnxruntime)
    _check_available(onnxruntime, provider)
    return onnxruntime


def _check_available(onnxruntime: Any, provider: Provider) -> None:
    available = onnxruntime.get_available_providers()
    if provider.name not in available:
        raise UnavailableError(
            f"onnxruntime {onnxruntime.__version__} has no {provider.name}, only {', '.join(available)}; "
            f"{provider.fix}"
        )


def _load_cuda_libraries(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from pip's packages, which ONNX Runtime does not find by itself.

    It has a function for that since 1.21. Where the system has the libraries, or something is missing, the
    provider itself starts or says why not.
    """
    load = getattr(onnxruntime, "preload_dlls", None)
    if load is not None:
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            load(directory="")  # "": site-packages


def _open_session(
    onnxruntime: Any, engine: Path, provider: Provider, threads: int | None, folder: Path, *, in_file: bool
) -> Any:
    """A session whose first provider is the one asked for. On a GPU it writes a profile into `folder`.

    `in_file`: weights stay in the memory-mapped file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    if provider.on_gpu:
        _load_cuda_libraries(onnxruntime)
        options.enable_profiling = True  # ended after one run
        options.profile_file_prefix = str(folder / "placement")
    left_out = []
    if in_file:
        left_out = ["ConstantFolding"]
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False  # they would keep the fp32 copies
    wanted = [(provider.name, provider.options)]
    try:
        # no fallback: it prints to stdout and uses the CPU
        session = onnxruntime.InferenceSession(
            str(engine), options, providers=wanted, enable_fallback=0, disabled_optimizers=left_out
        )
    except Exception as error:  # its exception classes are private
        # the file's hash has matched: on a GPU it is the GPU that fails
        kind = UnavailableError if provider.on_gpu else BundleError
        raise kind(
            f"{engine}: onnxruntime {onnxruntime.__version__} cannot load it: {reason_of(error)}"
        ) from error
    if session.get_providers()[0] != provider.name:
        raise UnavailableError(
            f"onnxruntime {onnxruntime.__version__} could not start {provider.name} and took "
            f"{session.get_providers()[0]} instead; {provider.fix}"
        )
    return session


def _weight_bytes(engine: Path) -> int:
    """Bytes of a graph and of the bundle's file of weights."""
    files = (engine, engine.with_name(WEIGHTS_FILE))
    return sum(path.stat().st_size for path in files if path.exists())


@dataclass(frozen=True)
class RanNode:
    """One node as it was run."""

    name: str
    op: str
    provider: str


def profiled(session: Any, run: Callable[[], object]) -> list[RanNode]:
    """The nodes that `run` makes `session` run, by its own profile, which ends with this."""
    try:
        run()
    finally:
        path = Path(session.end_profiling())
    nodes = []
    for event in read_json(path, "report"):  # in Chrome's trace format
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
