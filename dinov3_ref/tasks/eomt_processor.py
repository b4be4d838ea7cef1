"""What a folder of transformers says about EoMT's preprocessing and post-processing, as plain facts.

Source: `preprocessor_config.json` of `EomtImageProcessor`, and its defaults where the file says nothing.

    do_pad           the long side is resized to the input, the rest is black: preset "pad"
    do_split_image   windows along the long side, for semantic segmentation
    neither          the image is stretched: preset "official"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinov3_ref.checkpoints.checkpoint import Channels
from dinov3_ref.checkpoints.files import CONFIG, RawCheckpoint
from dinov3_ref.errors import CheckpointError

PROCESSOR = "preprocessor_config.json"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, SAME_SCALE = 1 / 255, 1e-6
# Of post_process_panoptic_segmentation and post_process_instance_segmentation.
THRESHOLDS = {"threshold": 0.8, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}
STUFF = "stuff_classes"
# COCO's panoptic classes: 80 things, then 53 kinds of stuff (arXiv:1801.00868; category list of COCO 2017).
COCO_CLASSES, COCO_THINGS = 133, 80
COCO_FIRST_STUFF = "banner"


@dataclass(frozen=True)
class EomtProcessor:
    """Preprocessing of an EoMT, and the settings of its post-processing.

    side: of the square input in pixels. preset: a name of `dinodeploy.images.preprocess.PRESETS`.
    """

    side: int
    preset: str
    mean: Channels
    std: Channels
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_processor(
    raw: RawCheckpoint, image_size: int, patch_size: int, mask_stride: int, classes: Sequence[str]
) -> EomtProcessor:
    """The facts of a folder; `image_size` is config.json's. Raises `CheckpointError`.

    mask_stride: pixels of the input per pixel of a mask.
    """
    found = raw.sidecars.get(PROCESSOR)
    notes = [] if found else [f"no {PROCESSOR}: took the defaults of EomtImageProcessor"]
    said = found or {}
    split, pad = (_switch(said, key, default=False) for key in ("do_split_image", "do_pad"))
    side, rectangular = _side(said, image_size)
    if rectangular:
        notes.append(f"{PROCESSOR} asks for another shape than a square; took {side}x{side} px")
    if side % patch_size:
        raise CheckpointError(f"{PROCESSOR} says {side} px; wanted a multiple of the patch size {patch_size}")
    stuff = _stuff_classes(raw, classes)
    task = "semantic" if split else "panoptic"
    if not split and not stuff and len(classes) == COCO_THINGS:
        task = "instance"
    settings = {
        "task": task,
        "split": split,
        "mask_stride": mask_stride,
        **{key: _number(said, key, value) for key, value in THRESHOLDS.items()},
        STUFF: list(stuff),
    }
    mean, std = _normalisation(said)
    return EomtProcessor(side, "pad" if pad and not split else "official", mean, std, settings, tuple(notes))


def _switch(said: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = said.get(key, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"{PROCESSOR} says {key} {value!r}; wanted true or false")
    return value


def _number(said: Mapping[str, Any], key: str, default: float) -> float:
    value = said.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{PROCESSOR} says {key} {value!r}; wanted a number")
    return float(value)


def _side(said: Mapping[str, Any], image_size: int) -> tuple[int, bool]:
    """Side of the square input, and whether the file asks for another shape."""
    size = said.get("size", image_size)
    named = size if isinstance(size, dict) else {"shortest_edge": size}
    edges = [
        value
        for key in ("shortest_edge", "longest_edge", "height", "width")
        if (value := named.get(key)) is not None
    ]
    if not edges or not all(
        isinstance(edge, int) and not isinstance(edge, bool) and edge > 0 for edge in edges
    ):
        raise CheckpointError(f"{PROCESSOR} says size {size!r}; wanted whole numbers of pixels")
    return max(edges), len(set(edges)) > 1


def _normalisation(said: Mapping[str, Any]) -> tuple[Channels, Channels]:
    """(mean, std) of RGB in 0..1."""
    scale = _number(said, "rescale_factor", SCALE)
    if not _switch(said, "do_rescale", default=True) or abs(scale - SCALE) > SAME_SCALE:
        raise CheckpointError(f"{PROCESSOR} says another scale than 1/255; wanted pixels in 0..1")
    if not _switch(said, "do_normalize", default=True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _triple(said, "image_mean", MEAN), _triple(said, "image_std", STD)


def _triple(said: Mapping[str, Any], key: str, default: Channels) -> Channels:
    value = said.get(key)
    if value is None:
        return default
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise CheckpointError(f"{PROCESSOR} says {key} {value!r}; wanted three numbers, for R, G and B")
    return float(value[0]), float(value[1]), float(value[2])


def _stuff_classes(raw: RawCheckpoint, classes: Sequence[str]) -> tuple[int, ...]:
    """Classes without instances: as either file lists them, or COCO's if the names are COCO's."""
    for name in (PROCESSOR, CONFIG):
        listed = raw.sidecars.get(name, {}).get(STUFF)
        if listed is None:
            continue
        if not isinstance(listed, list) or any(
            type(index) is not int or not 0 <= index < max(len(classes), 1) for index in listed
        ):
            raise CheckpointError(f"{name} says {STUFF} {listed!r}; wanted a list of class numbers")
        return tuple(sorted(set(listed)))
    if len(classes) == COCO_CLASSES and classes[COCO_THINGS] == COCO_FIRST_STUFF:
        return tuple(range(COCO_THINGS, COCO_CLASSES))
    return ()
