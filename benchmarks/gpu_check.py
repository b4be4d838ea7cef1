"""Parity on a GPU: every model × recipe × backend that this machine can run, in one record.

    make gpu-check
    python benchmarks/gpu_check.py --models tiny,vit_small --recipes fp16,bf16 --bundles /tmp/bundles

Bundles are exported here (which needs onnxscript), or taken from the folder of --bundles where they exist.
Engines are built with `dinodeploy build` where TensorRT or TensorRT-RTX can be imported. Every engine is
checked in its own process, so that a crash of a runtime does not lose the record. `torch` is the reference on
the GPU: in fp32 without TF32, else under autocast. A row has passed, failed or was skipped, with the reason.
Exit code 1 for a failure, else 0, also without a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu_shared import MODELS, export, gpu_or_exit, make_gpu_parser, new_gpu_record, torch_fp32
from shared import LEDGER, save

from dinodeploy.bench.ledger import record_name
from dinodeploy.bundle.bundle import GOLDEN_FILE
from dinodeploy.errors import DinodeployError, UnavailableError
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.golden import load_golden
from dinodeploy.parity.judge import judge_golden
from dinodeploy.parity.measurement import Verdict
from dinodeploy.parity.thresholds import THRESHOLDS

Row = dict[str, Any]
DEFAULT_MODELS = "tiny,tiny_swiglu,vit_small,vit_base,planted_small,planted_base"
METRICS = ("relative_frobenius", "cosine", "patch_cosine_p01", "nearest_neighbour")
SECONDS = 540  # for one engine, its build included

# backend -> --device, the engine in the bundle, `dinodeploy build --target` where it has to be built first
BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "onnxruntime": ("cpu", "", None),
    "onnxruntime_cuda": ("cuda", "", None),
    "tensorrt": ("tensorrt", "tensorrt.plan", "tensorrt"),
    "tensorrt_rtx": ("tensorrt", "rtx.plan", "rtx"),
    "torch": ("", "", None),
}


def main(arguments: list[str]) -> int:
    parser = make_gpu_parser(__doc__, DEFAULT_MODELS, ",".join(THRESHOLDS))
    parser.add_argument("--one", nargs=3, metavar=("BUNDLE", "MODEL", "BACKEND"), help="judge one engine")
    options = parser.parse_args(arguments)
    if options.one:
        bundle, model, backend = options.one
        print(json.dumps(judge_one(Path(bundle), model, backend)))
        return 0
    gpu = gpu_or_exit("gpu-check")
    record = new_gpu_record("gpu_check", gpu, arguments)
    path = options.out or LEDGER / record_name("gpu_check", machine=gpu.name)
    with tempfile.TemporaryDirectory() as folder:
        cases = rows(options.models.split(","), options.recipes.split(","), options.bundles or Path(folder))
        for row in cases:
            record["rows"].append(row)
            save(record, out=path)
            print(line(row), flush=True)
    failed = sum(row["status"] == "failed" for row in record["rows"])
    print(f"{len(record['rows'])} rows, {failed} failed; written: {path}")
    return 1 if failed else 0


def rows(
    models: list[str],
    recipes: list[str],
    folder: Path,
    judge_in: Callable[[Path, str, str], Row] | None = None,
) -> Iterator[Row]:
    """One row for each model, recipe and backend; `judge_in` gets the bundle, the model and the backend."""
    for model in models:
        for recipe in recipes:
            head = {"model": model, "recipe": recipe}
            try:
                bundle = export(model, recipe, folder)
            except DinodeployError as error:
                yield {**head, "backend": "", "status": "failed", "reason": f"not exported: {error}"}
                continue
            for backend in BACKENDS:
                yield {**head, "backend": backend, **(judge_in or in_a_process)(bundle.root, model, backend)}


def in_a_process(bundle: Path, model: str, backend: str) -> Row:
    """`judge_one` in its own process, which may crash."""
    command = [sys.executable, __file__, "--one", str(bundle), model, backend]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment()
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"not done after {SECONDS} s"}
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        return {"status": "failed", "reason": f"ended with {run.returncode}: {last}"}
    row: Row = json.loads(run.stdout.splitlines()[-1])
    return row


def environment() -> dict[str, str]:
    """This process's environment, with this checkout first on PYTHONPATH."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def judge_one(bundle: Path, model: str, backend: str) -> Row:
    """Build if needed, check parity, and return the worst numbers."""
    started = time.perf_counter()
    device, engine, target = BACKENDS[backend]
    try:
        if backend == "torch":
            verdict, runtime, where = judge_torch(bundle, model)
        else:
            if target is not None and not (bundle / engine).exists():
                build(bundle, target, engine)
            _, receipt, verdict = check_bundle(bundle / engine, device=device)
            runtime, where = receipt.runtime, receipt.device
    except UnavailableError as error:
        return {"status": "skipped", "reason": str(error)}
    except DinodeployError as error:
        return {"status": "failed", "reason": str(error)}
    return {
        "status": "passed" if verdict.passed else "failed",
        "runtime": runtime,
        "device": where,
        "worst": {metric: verdict.worst(metric) for metric in METRICS},
        "failures": [f"{m.case} {m.output} {m.metric} {m.value}" for m in verdict.failures[:5]],
        "seconds": round(time.perf_counter() - started, 2),
    }


def build(bundle: Path, target: str, engine: str) -> None:
    """Run `dinodeploy build`. Raises UnavailableError for its exit code 4, DinodeployError for others."""
    options = ["build", str(bundle), "--target", target, "--name", Path(engine).stem]
    command = [sys.executable, "-m", "dinodeploy.cli.app", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or [f"ended with {run.returncode}"])[-1]
        kind = UnavailableError if run.returncode == UnavailableError.exit_code else DinodeployError
        raise kind(f"not built: {reason}")


def judge_torch(root: Path, model: str) -> tuple[Verdict, str, str]:
    """Judge the reference model on the GPU: the error of PyTorch itself."""
    from dinodeploy.bundle.bundle import open_bundle
    from dinov3_ref.checkpoints import build_model
    from exporters.trace.trace import TokenOutputs

    bundle = open_bundle(root)
    with torch_fp32() as torch:
        if not torch.cuda.is_available():
            raise UnavailableError(f"torch {torch.__version__} sees no GPU")
        module = TokenOutputs(build_model(MODELS[model]()).eval(), bundle.manifest.graph.layers).cuda()
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(bundle.manifest.graph.recipe)

        def run(pixels: Any) -> dict[str, Any]:
            with torch.inference_mode(), torch.autocast("cuda", kind, enabled=kind is not None):
                outputs = module(torch.from_numpy(pixels).cuda())
            return {
                name: x.float().cpu().numpy() for name, x in zip(module.output_names, outputs, strict=True)
            }

        verdict = judge_golden(load_golden(bundle.root / GOLDEN_FILE), run, bundle.manifest)
        return verdict, f"torch {torch.__version__}", torch.cuda.get_device_name()


def line(row: Row) -> str:
    """A row as text."""
    head = f"{row['model']:14} {row['recipe']:5} {row['backend']:20} {row['status']:8}"
    if "reason" in row:
        return f"{head} {row['reason']}"
    worst = row["worst"]
    numbers = ", ".join(f"{metric} {value:.3g}" for metric, value in worst.items() if value is not None)
    return f"{head} {numbers}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
