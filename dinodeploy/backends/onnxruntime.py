"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.errors import BundleError, UnavailableError
from dinodeploy.machine import cpu_name

Floats = NDArray[np.float32]
_ERRORS_ONLY = 3


class OnnxRuntimeBackend:
    """One InferenceSession; sessions are safe to share between threads.

    `threads` None leaves the choice to ONNX Runtime: one per physical core.
    """

    def __init__(self, engine: Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UnavailableError(
                f"onnxruntime cannot be imported ({error}); install it: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(engine), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exception classes are private, and there are many
            raise BundleError(
                f"{engine}: onnxruntime {onnxruntime.__version__} cannot load it: {_first_line(error)}"
            ) from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.device = f"cpu: {cpu_name()}"
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, pixels: Floats) -> dict[str, Floats]:
        values = self._session.run(self._outputs, {self._input: pixels})
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._session = None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
