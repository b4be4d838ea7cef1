"""The machine's measured peak of fp32 matrix products, and the number of operations of a model.

The peak is the better of two products of 1024 x 1024 matrices: numpy's BLAS and ONNX Runtime's MLAS. The ONNX
model for the latter is written here as bytes, since the runtime does not need the `onnx` package.

Shapes: H W pixels, L tokens, D embed_dim, C channels of a ConvNeXt stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dinodeploy.bundle.manifest import MODEL_FILE, Manifest
from dinodeploy.hardware.telemetry import silence_onnxruntime
from dinodeploy.parity.golden import GoldenCase

SIDE = 1024
SECONDS = 1.0  # of each product, after one warm-up run
STEM, DOWN = 4 * 4, 2 * 2  # pixels merged into one by a ConvNeXt's first convolution, and by the later ones
WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "bf16-residual": 2, "int8": 1, "fp8": 1}


def fp32_gemm_peak(threads: int) -> float:
    """GFLOP/s of the best product. `probe.py` sets numpy's threads in the environment."""
    a, b = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32)
    products = (lambda: a @ b, _onnxruntime_product(a, b, threads))
    return max(2 * SIDE**3 / min(_seconds(product)) / 1e9 for product in products)


def _seconds(work: Callable[[], object]) -> Iterator[float]:
    work()
    end = time.perf_counter() + SECONDS
    while (started := time.perf_counter()) < end:
        work()
        yield time.perf_counter() - started


def _onnxruntime_product(a: np.ndarray, b: np.ndarray, threads: int) -> Callable[[], object]:
    import onnxruntime

    silence_onnxruntime(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(product_model(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a, "b": b})


def product_model() -> bytes:
    """An ONNX model of one MatMul, c = a·b, float32 with two free dimensions each."""

    def message(field: int, content: bytes) -> bytes:
        return bytes([field << 3 | 2, len(content)]) + content

    def value(name: bytes) -> bytes:
        free = message(1, message(2, b"m")) + message(1, message(2, b"n"))
        tensor = b"\x08\x01" + message(2, free)  # elem_type: float
        return message(1, name) + message(2, message(1, tensor))

    node = message(1, b"a") + message(1, b"b") + message(2, b"c") + message(4, b"MatMul")
    graph = message(1, node) + message(2, b"product")
    graph += message(11, value(b"a")) + message(11, value(b"b")) + message(12, value(b"c"))
    return b"\x08\x08" + message(7, graph) + message(8, b"\x10\x12")  # IR version 8, opset 18


def model_flop(manifest: Manifest, cases: Sequence[GoldenCase], height: int, width: int) -> float | None:
    """Operations for one image of H x W; None where the golden cases do not tell (custom ConvNeXts).

    A ViT has two per weight and token, and 4LD per token and block in attention.
    """
    stages = _stages(cases)
    if len(stages) > 1:
        return convnext_flop(stages, height * width)
    if not stages and manifest.model.rope_periods is None:
        return None
    # Weights are counted by file size, which is right within a percent: biases and norms are small.
    model = manifest.model
    tokens = 1 + model.storage_tokens + (height // model.patch_size) * (width // model.patch_size)
    stored = sum(
        manifest.files[name].bytes for name in (MODEL_FILE, f"{MODEL_FILE}.data") if name in manifest.files
    )
    weights = stored / WEIGHT_BYTES[manifest.graph.recipe]
    return 2.0 * weights * tokens + 4.0 * model.depth * tokens**2 * model.embed_dim


def convnext_flop(stages: Sequence[tuple[int, int]], pixels: float) -> float:
    """For each stage (C, blocks): the convolution before it, then per block a 7x7, C to 4C and back."""
    total, before = 0.0, 3
    for stage, (channels, blocks) in enumerate(stages):
        area = DOWN if stage else STEM
        pixels /= area
        total += 2 * pixels * (area * before * channels + blocks * (49 * channels + 8 * channels**2))
        before = channels
    return total


def _stages(cases: Sequence[GoldenCase]) -> list[tuple[int, int]]:
    """(C, number of blocks) of each stage, read from the reference's residual streams."""
    traces = next((case.traces for case in cases if case.traces), ())
    return [(trace.embedded.shape[-1], len(trace.blocks)) for trace in traces]
