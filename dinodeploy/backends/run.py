"""Run pixels of a caller on an opened engine: check them, run, and give the outputs by name.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

from dinodeploy.arrays import FloatArray
from dinodeploy.backends import Backend
from dinodeploy.backends.gpu_arrays import is_gpu_array
from dinodeploy.bundle.bundle import EngineChoice
from dinodeploy.errors import MisuseError
from dinodeploy.images.inputs import as_pixels, check_pixels, run_fixed

Names = Sequence[str] | None  # of outputs; None for those that an engine was opened for
Arrays = dict[str, FloatArray]
Outputs = dict[str, Any]  # numpy arrays, or `GpuArray`s
To = Literal["host", "device"]


def run_pixels(
    engine: EngineChoice, backend: Backend, pixels: Any, names: Sequence[str], to: To, stream: int | None
) -> dict[str, Any]:
    """Normalised pixels [B,3,H,W], or bytes [B,H,W,3] -> the outputs `names`. As `Embedder.run`."""
    manifest = engine.manifest
    engine.check_outputs(names)
    if to not in get_args(To):
        raise MisuseError(f"to is {to!r}; wanted host or device")
    if stream is not None and (not isinstance(stream, int) or isinstance(stream, bool) or stream < 0):
        raise MisuseError(
            f"stream is {stream!r}; wanted a handle, such as torch.cuda.current_stream().cuda_stream"
        )
    steps, least = manifest.preprocess, manifest.head.least_side if manifest.head else 1
    gpu = backend.gpu
    array: Any
    if is_gpu_array(pixels) and gpu is not None:
        array = gpu.borrow(pixels, stream)
        check_pixels(array, steps, least, on_gpu=True)
    else:
        array = as_pixels(pixels, steps, least)
    run: Any = backend.run if tuple(names) == engine.outputs else partial(backend.run, outputs=names)
    fixed = manifest.graph.fixed
    if gpu is not None and to == "device":
        if "batch" in fixed and len(array) > 1:
            raise MisuseError(f"{engine.named} takes one image at a time; give to='device' one image a call")
        run = partial(gpu.run_on_gpu, outputs=names, caller=stream)
    return run_fixed(run, array, fixed, steps) if fixed else run(array)
