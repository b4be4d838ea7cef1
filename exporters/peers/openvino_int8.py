"""OpenVINO's own 8 bits: NNCF quantises the fp32 graph, OpenVINO compiles it for each input shape.

NNCF calibrates on what `export --int8` takes when no folder is given. OpenVINO may do what is refused to an
engine of ours: compile a model for each shape, so that a picture's numbers depend on its batch.

Shapes: B batch, H W input pixels, D embed_dim.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from dinodeploy.arrays import FloatArray
from dinodeploy.backends.openvino import settings, shared_core
from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.checkpoints import Checkpoint, build_model
from dinov3_ref.models import ViTConfig
from exporters.dialects import DIALECTS
from exporters.graph.graph import to_graph
from exporters.graph.write import write_onnx
from exporters.precision.quantization.images import Calibration, calibration_pixels
from exporters.trace.fold import make_meta_copy
from exporters.trace.trace import TokenOutputs, trace


class NncfRunner:
    """A checkpoint by NNCF and OpenVINO. Without them raises ImportError or UnavailableError."""

    def __init__(self, checkpoint: Checkpoint, preprocess: Preprocess, threads: int) -> None:
        self._core = shared_core()
        import nncf

        nncf.set_log_level(logging.ERROR)
        pictures, _ = calibration_pixels(Calibration(), preprocess)
        with tempfile.TemporaryDirectory(prefix="dinodeploy_") as folder, redirect_stdout(io.StringIO()):
            path = Path(folder) / "model.onnx"
            write_graph(checkpoint, path)
            self._model = nncf.quantize(
                self._core.read_model(path),
                nncf.Dataset([picture[None] for picture in pictures]),
                model_type=nncf.ModelType.TRANSFORMER if isinstance(checkpoint.config, ViTConfig) else None,
                subset_size=len(pictures),
            )
        runtime, self._settings = settings("int8", threads)
        self.runtime = f"nncf {nncf.__version__}, {runtime}"
        self._compiled: dict[tuple[int, ...], Any] = {}

    def takes(self, height: int, width: int) -> bool:
        return True

    def run(self, pixels: FloatArray) -> Mapping[str, FloatArray]:
        if pixels.shape not in self._compiled:
            model = self._model.clone()
            model.reshape(list(pixels.shape))
            self._compiled[pixels.shape] = self._core.compile_model(model, "CPU", self._settings)
        values = self._compiled[pixels.shape](pixels)
        return {output.get_any_name(): value for output, value in values.items()}

    def close(self) -> None:
        self._compiled.clear()


def write_graph(checkpoint: Checkpoint, path: Path) -> None:
    """The checkpoint as our fp32 graph, unjudged: what others quantise."""
    meta_copy, weights = make_meta_copy(build_model(checkpoint))
    module = TokenOutputs(meta_copy)
    write_onnx(to_graph(trace(module), module, weights, DIALECTS["portable"]), path)
