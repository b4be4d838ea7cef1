"""Latency and throughput on a GPU against torch.compile: the same pixels, in the same run, interleaved.

    make gpu-bench
    python benchmarks/gpu_bench.py --models vit_base --recipes fp16 --rounds 30 --bundles /tmp/bundles

Every run goes from pixels in host memory to outputs (CLS, storage tokens, patches) in host memory.
`median_ms` is one run at a time, and so is `images_per_second`: one stream against one stream. An engine
with more streams has `images_per_second_all_streams` beside it. `device_ms` is from pixels to outputs in GPU
memory, for torch alone: what a plan takes without its copies, trtexec says (--noDataTransfers).

torch is given what makes it fast: weights in the recipe's type, converted once; `fullgraph`; CUDA graphs and
`max-autotune` as a peer of its own. In fp32 it runs without TF32. Dynamo starts anew for each model and
recipe, and a recompilation limit that is reached is an error: it would silently run eagerly from then on.
Each row has its error against torch in fp32, and its share of the machine's matrix peak and copy bandwidth,
both measured in the same run.

Shapes: B batch, H W pixels, L tokens, D embed_dim.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_check import BACKENDS, build
from gpu_shared import MODELS, export, gpu_or_exit, make_gpu_parser, new_gpu_record, torch_fp32
from shared import LEDGER, save

from dinodeploy import Embedder
from dinodeploy.bench.ledger import record_name
from dinodeploy.bench.limits import WEIGHT_BYTES
from dinodeploy.bench.record import take_turns
from dinodeploy.bundle.manifest import ModelFacts
from dinodeploy.errors import DinodeployError

Row = dict[str, Any]
Run = Callable[[Any], dict[str, Any]]

SHAPES = ((1, 224, 224), (8, 224, 224), (32, 224, 224), (1, 512, 512), (8, 448, 256))  # B, H, W
ENGINES = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda")
# name -> options of torch.compile; both modes replay CUDA graphs
PEERS: dict[str, dict[str, Any]] = {
    "torch.compile": {"mode": "reduce-overhead"},
    "torch.compile max-autotune": {"mode": "max-autotune"},
}
WARM_UP = 3
MATRIX_SIDE, COPY_BYTES, PEAK_ROUNDS = 8192, 1 << 30, 20


def main(arguments: list[str]) -> int:
    parser = make_gpu_parser(__doc__, "vit_small,vit_base,vit_large", "bf16,fp16")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args(arguments)
    gpu = gpu_or_exit("gpu-bench")
    record = new_gpu_record("gpu_bench", gpu, arguments)
    path = options.out or LEDGER / record_name("gpu_bench", machine=gpu.name)
    with tempfile.TemporaryDirectory() as folder, torch_fp32() as torch:
        if not torch.cuda.is_available():
            print(f"gpu-bench skipped: torch {torch.__version__} sees no GPU: nothing to compare with")
            return 0
        record["peak"] = measure_peaks(torch)
        for model in options.models.split(","):
            for recipe in options.recipes.split(","):
                for row in bench(torch, model, recipe, options, options.bundles or Path(folder)):
                    record["rows"].append(add_shares(row, record["peak"]))
                    save(record, out=path)
                    print(line(row), flush=True)
    print(f"{len(record['rows'])} rows; written: {path}")
    return 0


def bench(torch: Any, model: str, recipe: str, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """One row per shape and runner."""
    try:
        bundle = export(model, recipe, folder)
    except DinodeployError as error:
        yield {"model": model, "recipe": recipe, "runner": "", "skipped": f"not exported: {error}"}
        return
    facts = bundle.manifest.model
    weights = weight_bytes(facts, recipe)
    runners: dict[str, tuple[Run, int]] = {}
    opened: list[Embedder] = []
    for backend in ENGINES:
        device, engine, target = BACKENDS[backend]
        try:
            if target is not None and not (bundle.root / engine).exists():
                build(bundle.root, target, engine)
            embedder = Embedder.open(bundle.root / engine, device=device)
        except DinodeployError as error:
            yield {"model": model, "recipe": recipe, "runner": backend, "skipped": str(error)}
            continue
        opened.append(embedder)
        runners[backend] = embedder.run, embedder.backend.parallel_runs
    reference, compiled = torch_runners(torch, model, recipe)
    runners |= {name: (run, 1) for name, run in compiled.items()}
    try:
        for shape in SHAPES:
            batch, height, width = shape
            pixels = np.random.default_rng(0).normal(size=(batch, 3, height, width)).astype(np.float32)
            able = {name: runner for name, runner in runners.items() if _takes(runner[0], pixels)}
            for row in bench_shape(able, reference, pixels, options.rounds, facts, weights):
                yield {"model": model, "recipe": recipe, **row}
    finally:
        for embedder in opened:
            embedder.close()


def _takes(run: Run, pixels: Any) -> bool:
    """Whether an engine was built for this size; torch.compile takes any."""
    embedder = getattr(run, "__self__", None)
    return embedder is None or bool(embedder.backend.takes(*pixels.shape[2:]))


def bench_shape(
    runners: dict[str, tuple[Run, int]],
    reference: Run,
    pixels: Any,
    rounds: int,
    facts: ModelFacts,
    weights: float,
) -> Iterator[Row]:
    """Every runner at one shape, in turns, so that a change in the machine's speed affects all."""
    wanted = reference(pixels)["cls"]
    errors = {}
    for name, (run, _) in runners.items():
        for _ in range(WARM_UP):
            got = run(pixels)["cls"]
        errors[name] = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
    times = take_turns({name: partial(run, pixels) for name, (run, _) in runners.items()}, rounds)
    peer = min(np.median(times[name]) for name in PEERS if name in times)  # the faster one
    batch, _, height, width = pixels.shape
    for name, (run, lanes) in runners.items():
        median = float(np.median(times[name]))
        rate = throughput(run, pixels, 1, rounds)
        on_device = getattr(run, "on_device", None)
        more = {"device_ms": 1e3 * on_device(pixels)} if on_device is not None else {}
        if lanes > 1:
            more["images_per_second_all_streams"] = throughput(run, pixels, lanes, rounds)
        yield {
            "runner": name,
            "batch": batch,
            "height": height,
            "width": width,
            "median_ms": 1e3 * median,
            "p95_ms": 1e3 * float(np.percentile(times[name], 95)),
            "images_per_second": rate,
            "torch_compile_over_this": float(peer / median),
            **more,
            "relative_frobenius_cls": errors[name],
            "tflop_per_second": rate * flops(facts, height, width) / 1e12,
            "host_gb_per_second": rate * host_bytes(facts, height, width) / 1e9,
            "weight_gb_per_second": rate / batch * weights / 1e9,
        }


def throughput(run: Run, pixels: Any, lanes: int, rounds: int) -> float:
    """Images a second with `lanes` runs at once."""
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(run, [pixels] * 2 * lanes))
        started = time.perf_counter()
        list(pool.map(run, [pixels] * rounds))
        return float(rounds * len(pixels) / (time.perf_counter() - started))


def torch_runners(torch: Any, model: str, recipe: str) -> tuple[Run, dict[str, Run]]:
    """The fp32 reference, and each peer in the recipe's type."""
    from dinov3_ref.checkpoints import build_model
    from exporters.trace.trace import TokenOutputs

    start_dynamo_anew(torch)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(recipe)
    module = TokenOutputs(build_model(MODELS[model]()).eval()).cuda()
    fast = (
        module
        if kind is None
        else low_precision(torch, TokenOutputs(build_model(MODELS[model]()).eval()), kind).cuda()
    )
    peers: dict[str, Run] = {
        name: TorchRun(
            torch, torch.compile(fast, dynamic=False, fullgraph=True, **options), fast.output_names, kind
        )
        for name, options in PEERS.items()
    }
    return TorchRun(torch, module, module.output_names, None), peers


def start_dynamo_anew(torch: Any) -> None:
    """All models share one code object, whose compilations Dynamo counts; past its limit it runs eagerly."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 4 * len(SHAPES) * len(PEERS)
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def low_precision(torch: Any, module: Any, kind: Any) -> Any:
    """Convert weights of products once, which autocast alone would do in every run; the rest stays fp32."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.to(kind)
    return module


class TorchRun:
    """A torch module, from pixels in host memory to outputs in host memory, through pinned memory."""

    def __init__(self, torch: Any, network: Any, names: tuple[str, ...], kind: Any) -> None:
        self._torch, self._network, self._names, self._kind = torch, network, names, kind

    def __call__(self, pixels: Any) -> dict[str, Any]:
        torch = self._torch
        with torch.inference_mode():
            outputs = self._compute(torch.from_numpy(pixels).pin_memory().cuda(non_blocking=True))
            host = [torch.empty(x.shape, pin_memory=True).copy_(x, non_blocking=True) for x in outputs]
            torch.cuda.synchronize()
        return {name: x.numpy() for name, x in zip(self._names, host, strict=True)}

    def on_device(self, pixels: Any) -> float:
        """Median seconds from pixels to outputs in GPU memory."""
        with self._torch.inference_mode():
            there = self._torch.from_numpy(pixels).cuda()
            return on_gpu(self._torch, lambda: self._compute(there))

    def _compute(self, pixels: Any) -> Any:
        with self._torch.autocast("cuda", self._kind, enabled=self._kind is not None):
            return self._network(pixels)


def measure_peaks(torch: Any) -> dict[str, float]:
    """Measured limits of this GPU: TFLOP/s of a large product by type, GB/s of a copy within its memory."""
    peaks = {}
    for name, kind in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        a = torch.randn(MATRIX_SIDE, MATRIX_SIDE, device="cuda", dtype=kind)
        seconds = on_gpu(torch, lambda a=a: a @ a)
        peaks[f"{name}_tflop_per_second"] = 2 * MATRIX_SIDE**3 / seconds / 1e12
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    peaks["copy_gb_per_second"] = 2 * COPY_BYTES / on_gpu(torch, lambda: target.copy_(source)) / 1e9
    return peaks


def on_gpu(torch: Any, work: Callable[[], Any]) -> float:
    """Median seconds, by the GPU's clock."""
    times = []
    for _ in range(PEAK_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(np.median(times[2:]))


def flops(facts: ModelFacts, height: int, width: int) -> float:
    """Per image, two per multiply-add. Per token: qkv and out 4D², an FFN of ratio 4 8D², attention 2LD."""
    patches = height // facts.patch_size * (width // facts.patch_size)
    tokens = 1 + facts.storage_tokens + patches
    block = tokens * (12 * facts.embed_dim**2 + 2 * tokens * facts.embed_dim)
    return 2.0 * (facts.depth * block + patches * 3 * facts.patch_size**2 * facts.embed_dim)


def host_bytes(facts: ModelFacts, height: int, width: int) -> float:
    """Bytes per image between host and GPU: pixels there, tokens back, all float32."""
    patches = height // facts.patch_size * (width // facts.patch_size)
    return 4.0 * (3 * height * width + (1 + facts.storage_tokens + patches) * facts.embed_dim)


def weight_bytes(facts: ModelFacts, recipe: str) -> float:
    """Bytes of the blocks' weights, 12D² numbers each, which every run reads once."""
    return 12.0 * facts.depth * facts.embed_dim**2 * WEIGHT_BYTES.get(recipe, 4)


def add_shares(row: Row, peak: dict[str, float]) -> Row:
    """Add the shares of the matrix peak in the recipe's type, and of the copy bandwidth by the weights."""
    limit = peak.get(f"{row['recipe']}_tflop_per_second")
    if limit and "tflop_per_second" in row:
        row["share_of_matrix_peak"] = row["tflop_per_second"] / limit
        row["share_of_copy_bandwidth_by_weights"] = row["weight_gb_per_second"] / peak["copy_gb_per_second"]
    return row


def line(row: Row) -> str:
    """A row as text."""
    head = f"{row['model']:10} {row['recipe']:5} {row['runner']:17}"
    if "skipped" in row:
        return f"{head} skipped: {row['skipped']}"
    return (
        f"{head} {row['batch']}x{row['height']}x{row['width']}: {row['median_ms']:.2f} ms "
        f"(p95 {row['p95_ms']:.2f}), {row['images_per_second']:.0f} images/s, "
        f"{row['torch_compile_over_this']:.2f}x torch.compile, error {row['relative_frobenius_cls']:.1e}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
