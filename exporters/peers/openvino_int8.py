"""OpenVINO's int8: NNCF quantises the fp32 graph, OpenVINO compiles it for each input shape.

NNCF calibrates on the default images of `export --int8`. Unlike our engines, OpenVINO compiles one model per
shape here, so the numbers of an image depend on its batch.

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
    """A checkpoint on NNCF and OpenVINO. Raises ImportError or UnavailableError without them."""

    def __init__(self, checkpoint: Checkpoint, preprocess: Preprocess, threads: int) -> None:
        self._core = shared_core()
        import nncf

        nncf.set_log_level(logging.ERROR)
        images, _ = calibration_pixels(Calibration(), preprocess)
        with tempfile.TemporaryDirectory(prefix="dinodeploy_") as folder, redirect_stdout(io.StringIO()):
            path = Path(folder) / "model.onnx"
            write_graph(checkpoint, path)
            self._model = nncf.quantize(
                self._core.read_model(path),
                nncf.Dataset([image[None] for image in images]),
                model_type=nncf.ModelType.TRANSFORMER if isinstance(checkpoint.config, ViTConfig) else None,
                subset_size=len(images),
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
    """Write the checkpoint as an fp32 graph, without a parity check: the input of NNCF."""
    meta_copy, weights = make_meta_copy(build_model(checkpoint))
    module = TokenOutputs(meta_copy)
    write_onnx(to_graph(trace(module), module, weights, DIALECTS["portable"]), path)
