"""Runs inside Triton's Python backend: an image file's bytes -> the engine's input.

It is copied to <name>_preprocess/1/model.py, next to the dinodeploy modules that it imports: pixels are
exactly those of `dinodeploy embed`. The server needs numpy and Pillow, not dinodeploy.

    image    BYTES [B,1]      image files
    pixels   FP32 [B,3,H,W]   normalised; of a bundle that takes bytes, UINT8 [B,H,W,3]

Shapes: B batch, H, W height and width of the model's input in pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

FACTS = "preprocess.json"
MAX_PIXELS = "max_pixels"


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the preprocessing options; modules beside this file take precedence over installed ones."""
        folder = Path(args["model_repository"], args["model_version"])
        sys.path.insert(0, str(folder))
        from dinodeploy.errors import ImageError
        from dinodeploy.files.json_file import read_json
        from dinodeploy.images.open import open_image
        from dinodeploy.images.preprocess import Preprocess

        facts = read_json(folder / FACTS, "small")
        self.max_pixels = facts.pop(MAX_PIXELS)
        facts["mean"], facts["std"] = tuple(facts["mean"]), tuple(facts["std"])
        self.preprocess = Preprocess(**facts)
        self.open_image, self.unreadable = open_image, ImageError

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; an image that cannot be read fails only its own request."""
        import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # Triton's own

        responses = []
        for request in requests:
            files = triton.get_input_tensor_by_name(request, "image").as_numpy()
            try:
                pixels = self.prepare(files.reshape(-1).tolist())
            except (self.unreadable, ValueError) as error:
                failure = triton.TritonError(str(error))
                responses.append(triton.InferenceResponse(output_tensors=[], error=failure))
                continue
            tensor = triton.Tensor("pixels", pixels)
            responses.append(triton.InferenceResponse(output_tensors=[tensor]))
        return responses

    def prepare(self, files: list[bytes]) -> np.ndarray[Any, Any]:
        """Image files -> one engine input. Raises ValueError if their inputs differ in size (keep-aspect)."""
        rows = [self.preprocess(self.open_image(data, max_pixels=self.max_pixels)) for data in files]
        sizes = {row.shape[:2] if row.dtype == np.uint8 else row.shape[1:] for row in rows}
        if len(sizes) > 1:
            words = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
            raise ValueError(f"the images become inputs of {words}; send images of one size together")
        return np.stack(rows)
