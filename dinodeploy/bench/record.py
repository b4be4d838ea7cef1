"""Run one complete benchmark and return the record for the ledger.

Every runner gets the bundle's golden images through the bundle's preprocessing, and is compared with the fp32
reference's outputs for them, which are in the bundle. Runs are timed in turns: where a machine's speed
drifts, only runs next to each other are comparable.

Shapes: B batch, H W input pixels, D embed_dim.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bench.ledger import describe_machine
from dinodeploy.bench.limits import model_flop
from dinodeploy.bench.probe import probe_peak, probe_start
from dinodeploy.bench.runners import BACKENDS, ENGINE, Runner, RunnerOptions, check_peers, open_runner
from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, locate
from dinodeploy.bundle.manifest import Manifest
from dinodeploy.errors import MisuseError, OutsideProfileError
from dinodeploy.hardware.cores import cores
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase, at_size, load_golden
from dinodeploy.parity.judge import cosine

Log = Callable[[str], None]
FORMAT = 1
PACKAGES = ("onnxruntime", "openvino", "torch", "transformers", "timm", "nncf", "numpy")


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. Raises MisuseError for a value out of range."""

    vs: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int, int], ...] = ()  # (B, H, W); empty: `batches` at the bundle's own size
    batches: tuple[int, ...] = (1, 8)
    rounds: int = 10
    threads: int | None = None  # None: one per usable core
    device: str = "auto"
    outputs: tuple[str, ...] | None = None
    checkpoint: str | None = None
    require_signature: str | None = None  # a public key file

    def __post_init__(self) -> None:
        check_peers(self.vs)
        for option, value in (("--rounds", self.rounds), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise MisuseError(f"{option} is {value}; wanted at least 1")
        for batch in (*self.batches, *(batch for batch, _, _ in self.shapes)):
            if batch < 1:
                raise MisuseError(f"--batch {batch}; wanted at least 1")


def run_bench(engine: str, options: BenchOptions, log: Log = lambda _: None) -> dict[str, Any]:
    """Measure and return the record.

    Raises as `open_runner`, and OutsideProfileError for a size that a runner was not built for.
    """
    bundle, file = locate(engine, require_signature=options.require_signature)
    if not options.shapes:
        own = bundle.manifest.preprocess
        shapes = tuple((batch, own.height, own.width) for batch in options.batches)
        options = replace(options, shapes=shapes)
    threads = options.threads or cores()
    opening = RunnerOptions(
        engine if bundle.hub is None else bundle.address(file),
        threads,
        options.device,
        options.outputs,
        options.checkpoint,
        options.require_signature,
    )
    names = (ENGINE, *options.vs)
    bundle.verify((GOLDEN_FILE,))
    cases = load_golden(bundle.root / GOLDEN_FILE)
    inputs = list(_inputs(bundle.manifest, cases, options))
    log("measuring this machine's fp32 peak")
    peak = probe_peak(threads)
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        for name in names:
            log(f"opening {name}")
            runners[name] = open_runner(name, opening)
            stack.callback(runners[name].close)
            for _, height, width in options.shapes:
                if not runners[name].takes(height, width):
                    raise OutsideProfileError(
                        f"{engine}: {name} was not built for {height}x{width} px; leave it out"
                    )
        log("comparing with the fp32 reference")
        accuracy = {name: measure_accuracy(runner, cases) for name, runner in runners.items()}
        rows: list[dict[str, Any]] = []
        for pixels in inputs:
            batch, _, height, width = pixels.shape
            log(f"timing batch {batch} of {height}x{width}")
            flop = model_flop(bundle.manifest, cases, height, width)
            rows += _rows(runners, pixels, bundle.manifest.preprocess, options.rounds, flop)
    first = inputs[0].shape
    starts = {}
    for name in names:
        log(f"starting {name} in its own process")
        starts[name] = asdict(probe_start(name, opening, (1, *first[2:])))
    log("measuring this machine's fp32 peak again")
    peak = max(peak, probe_peak(threads))  # the machine may have been busy the first time
    for row in rows:
        rate = row["gflop_per_second"]
        row["share_of_fp32_peak"] = None if rate is None else rate / peak
    runtimes = {name: runner.runtime for name, runner in runners.items()}
    return {
        **_head(bundle, threads, options),
        "fp32_gemm_gflop_per_second": peak,
        "runners": {name: {"runtime": runtimes[name], **accuracy[name], **starts[name]} for name in names},
        "rows": rows,
    }


def _inputs(manifest: Manifest, cases: Sequence[GoldenCase], options: BenchOptions) -> Iterator[FloatArray]:
    """Pixels [B,3,H,W] of every shape, from the golden images in a cycle. Raises MisuseError."""
    images = [image for case in cases for image in case.images]
    for batch, *size in options.shapes:
        preprocess = at_size(manifest.preprocess, (size[0], size[1]))
        made = np.stack([preprocess(open_image(image)) for image in islice(cycle(images), batch)])
        yield preprocess.normalised(made)


def measure_accuracy(runner: Runner, cases: Sequence[GoldenCase]) -> dict[str, float]:
    """Error and worst cosine of CLS against the fp32 reference, over the golden images the runner takes."""
    fitting = [case for case in cases if runner.takes(*case.size)]
    got = np.concatenate([runner.run(case.pixels)["cls"] for case in fitting]).astype(np.float64)
    wanted = np.concatenate([case.outputs["cls"] for case in fitting]).astype(np.float64)
    return {
        "relative_frobenius_cls": float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)),
        "smallest_cosine_cls": float(cosine(got, wanted).min()),
    }


def _rows(
    runners: Mapping[str, Runner], pixels: FloatArray, steps: Preprocess, rounds: int, flop: float | None
) -> Iterator[dict[str, Any]]:
    """One row per runner at one shape; `flop` is the operations for one image.

    The bundle gets pixels as `embed` hands them over, bytes where it takes bytes; peers take normalised ones.
    """
    batch, _, height, width = pixels.shape
    own = {name: steps.for_engine(pixels) for name in (ENGINE, *BACKENDS)}
    runs = {name: partial(runner.run, own.get(name, pixels)) for name, runner in runners.items()}
    timings = compare(take_turns(runs, rounds), ENGINE)
    for name, timing in timings.items():
        rate = 1e3 * batch / timing.median_ms
        yield {
            "runner": name,
            "batch": batch,
            "height": height,
            "width": width,
            **asdict(timing),
            "images_per_second": rate,
            "gflop_per_second": None if flop is None else rate * flop / 1e9,
        }


@dataclass(frozen=True)
class Timing:
    """One runner at one shape. `ratio`: the engine's time over its time, median over rounds."""

    median_ms: float
    p95_ms: float
    ratio: float


def take_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run, one per round, after one warm-up round.

    The order rotates from round to round, so that no run always follows the same one.
    """
    names = list(runs)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            started = clock()
            runs[name]()
            seconds[name].append(clock() - started)
    return seconds


def compare(seconds: Mapping[str, list[float]], engine: str) -> dict[str, Timing]:
    """Median, 95th percentile, and speed relative to `engine` in the same round."""
    ours = np.array(seconds[engine])
    return {
        name: Timing(
            median_ms=1e3 * float(np.median(times)),
            p95_ms=1e3 * float(np.percentile(times, 95)),
            ratio=float(np.median(ours / np.array(times))),
        )
        for name, times in seconds.items()
    }


def _head(bundle: Bundle, threads: int, options: BenchOptions) -> dict[str, Any]:
    model = bundle.manifest.model
    return {
        "format": FORMAT,
        **describe_machine(PACKAGES),
        "threads": threads,
        "system": platform.platform(terse=True),
        "arch": model.arch,
        "weights": model.source,
        "weights_sha256": model.sha256,
        "recipe": bundle.manifest.graph.recipe,
        "outputs": list(options.outputs or ()) or "all",
        "rounds": options.rounds,
    }
