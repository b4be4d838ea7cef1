"""What preprocessor_config.json says, as settings of post-processing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinov3_ref.checkpoints.files import RawCheckpoint
from dinov3_ref.errors import CheckpointError
from dinov3_ref.tasks.eomt_processor import EomtProcessor, read_processor

COCO = (*(f"thing {i}" for i in range(80)), "banner", *(f"stuff {i}" for i in range(52)))


def read(
    said: dict[str, Any] | None,
    classes: tuple[str, ...] = ("person", "sky"),
    config: dict[str, Any] | None = None,
) -> EomtProcessor:
    sidecars = {} if said is None else {"preprocessor_config.json": said}
    raw = RawCheckpoint(Path("model"), {}, "", {**sidecars, "config.json": config or {}})
    return read_processor(raw, 640, 16, 4, classes)


def test_defaults_without_a_file() -> None:
    found = read(None)
    assert (found.side, found.preset, found.mean[0], found.std[0]) == (640, "official", 0.485, 0.229)
    assert found.notes == ("no preprocessor_config.json: took the defaults of EomtImageProcessor",)


def test_padding_and_thresholds() -> None:
    size = {"shortest_edge": 1280, "longest_edge": 1280}
    found = read({"do_pad": True, "size": size, "threshold": 0.5, "image_mean": [0.1, 0.2, 0.3]})
    assert (found.side, found.preset, found.mean) == (1280, "pad", (0.1, 0.2, 0.3))
    assert found.settings["threshold"] == 0.5
    assert found.notes == ()


def test_windows_are_for_semantic_segmentation() -> None:
    found = read({"do_split_image": True, "size": {"shortest_edge": 512, "longest_edge": None}})
    assert (found.side, found.preset) == (512, "official")
    assert (found.settings["task"], found.settings["split"]) == ("semantic", True)


@pytest.mark.parametrize(
    ("classes", "config", "task", "stuff"),
    [
        (COCO, {}, "panoptic", list(range(80, 133))),
        (COCO[:80], {}, "instance", []),
        (("person", "sky"), {"stuff_classes": [1]}, "panoptic", [1]),
        (("person", "sky"), {}, "panoptic", []),
    ],
)
def test_task_and_stuff_classes(
    classes: tuple[str, ...], config: dict[str, Any], task: str, stuff: list[int]
) -> None:
    found = read({}, classes, config)
    assert (found.settings["task"], found.settings["stuff_classes"]) == (task, stuff)


def test_without_normalisation_pixels_stay_in_0_to_1() -> None:
    found = read({"do_normalize": False})
    assert (found.mean, found.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_a_rectangle_is_noted() -> None:
    assert "took 640x640 px" in read({"size": {"height": 480, "width": 640}}).notes[0]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"size": {"shortest_edge": 100}}, "100 px; wanted a multiple of the patch size 16"),
        ({"size": {"shortest_edge": "640"}}, "wanted whole numbers of pixels"),
        ({"size": {}}, "wanted whole numbers of pixels"),
        ({"do_rescale": False}, "wanted pixels in 0..1"),
        ({"rescale_factor": 1.0}, "wanted pixels in 0..1"),
        ({"image_std": [1.0]}, r"image_std \[1.0\]; wanted three numbers"),
        ({"threshold": "high"}, "threshold 'high'; wanted a number"),
        ({"do_pad": "yes"}, "do_pad 'yes'; wanted true or false"),
        ({"stuff_classes": [7]}, r"stuff_classes \[7\]; wanted a list of class numbers"),
    ],
)
def test_values_that_make_no_sense(said: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(said)
