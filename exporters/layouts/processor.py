"""preprocessor_config.json: a bundle's preprocessing as an image processor of transformers.

    preset      image processor             what it does
    official    ViTImageProcessor           resize on bytes, bilinear; rescale; normalise
    hf          DINOv3ViTImageProcessorFast rescale; resize on floats, bilinear; normalise
    timm, eval  BitImageProcessor           short side, bicubic; centre crop; rescale; normalise

Source: https://huggingface.co/docs/transformers/main_classes/image_processor and the models' own pages.
transformers.js knows the three by the same names, but resizes with the browser's canvas. Where an image is an
odd number of pixels larger than its crop, transformers crops one pixel further left or up than torchvision.
"""

from __future__ import annotations

from typing import Any

from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess

RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def image_processor(preprocess: Preprocess) -> dict[str, Any]:
    """The content of preprocessor_config.json. Raises MisuseError for what transformers cannot express."""
    steps, size = preprocess.steps, {"height": preprocess.height, "width": preprocess.width}
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": RESAMPLE[steps.interpolation],
        "rescale_factor": 1 / 255,
    }
    if steps.fit == "squash":
        kind = "DINOv3ViTImageProcessorFast" if steps.dtype == "float32" else "ViTImageProcessor"
        return {"image_processor_type": kind, "size": size, **common}
    if steps.fit != "short-side-crop":
        raise MisuseError(
            f"--preprocess {preprocess.preset}: transformers has no such image processor; use official, hf, "
            "timm or eval"
        )
    if preprocess.height != preprocess.width:
        raise MisuseError(
            f"--preprocess {preprocess.preset} --imgsz {preprocess.height},{preprocess.width}: transformers "
            "resizes by the short side for a square only; give one size, or --preprocess official"
        )
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": int(preprocess.height * steps.resize_ratio)},
        "crop_size": size,
        "do_center_crop": True,
        **common,
    }
