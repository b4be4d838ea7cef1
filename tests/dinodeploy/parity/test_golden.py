"""golden.safetensors: written, read back, and refused when it is not whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.errors import BundleError
from dinodeploy.files.tensors import load_tensors, save_tensors
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase, Trace, at_size, load_golden, save_golden
from tests.support.images.photographs import IMAGENET_MEAN, IMAGENET_STD


def case(name: str = "wide") -> GoldenCase:
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (9, 7 + i, 3), dtype=np.uint8) for i in range(2))
    pixels = rng.normal(size=(2, 3, 16, 32)).astype(np.float32)
    return GoldenCase(name, images, pixels, {"cls": pixels[:, :, 0, 0], "patch": pixels[..., :2]})


def test_cases_survive_the_file(tmp_path: Path) -> None:
    save_golden([case("wide"), case("tall")], tmp_path / "g.safetensors")
    tall, wide = load_golden(tmp_path / "g.safetensors")
    assert (tall.name, wide.name) == ("tall", "wide")
    assert wide.size == (16, 32)
    for got, wanted in zip(wide.images, case().images, strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(wide.pixels, case().pixels)
    assert wide.outputs.keys() == {"cls", "patch"}
    np.testing.assert_array_equal(wide.outputs["patch"], case().outputs["patch"])


def trace() -> Trace:
    stream = np.random.default_rng(1).normal(size=(4, 1, 3, 8)).astype(np.float32)
    return Trace(np.array([0, 1, 5], np.int32), stream[0], stream[1:])


def test_a_trace_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_golden([replace(case("wide"), traces=(trace(),)), case("tall")], path)
    tall, wide = load_golden(path)
    assert tall.traces == ()
    (found,) = wide.traces
    np.testing.assert_array_equal(found.stream, trace().stream)
    np.testing.assert_array_equal(found.tokens, trace().tokens)


def test_a_trace_of_every_stage_survives_the_file(tmp_path: Path) -> None:
    """Stages differ in blocks, places and width."""
    other = Trace(np.array([2], np.int32), np.ones((1, 1, 5), np.float32), np.zeros((7, 1, 1, 5), np.float32))
    path = tmp_path / "g.safetensors"
    save_golden([replace(case(), traces=(trace(), other))], path)
    (wide,) = load_golden(path)
    assert [found.stream.shape for found in wide.traces] == [(4, 1, 3, 8), (8, 1, 1, 5)]
    tensors = load_tensors(path)
    save_tensors(path, {key: value for key, value in tensors.items() if "stage_0" not in key})
    with pytest.raises(BundleError, match=r"its trace is incomplete; .* \(of every stage\)"):
        load_golden(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wide/tokens": None}, "'wide': its trace is incomplete"),
        ({"wide/blocks": np.zeros((3, 1, 2, 8), np.float32)}, "do not belong together"),
        ({"wide/tokens": np.zeros(4, np.int32)}, "do not belong together"),
        ({"lost/blocks": np.zeros((3, 1, 2, 8), np.float32)}, "incomplete; wanted images"),
    ],
)
def test_a_broken_trace_is_refused(
    changes: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "g.safetensors"
    save_golden([replace(case(), traces=(trace(),))], path)
    tensors = {**load_tensors(path), **changes}
    save_tensors(path, {key: value for key, value in tensors.items() if value is not None})
    with pytest.raises(BundleError, match=message):
        load_golden(path)


@pytest.mark.parametrize("lost", ["wide/pixels", "wide/image_", "wide/out/"])
def test_an_incomplete_case_is_refused(lost: str, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_golden([case()], path)
    save_tensors(path, {key: value for key, value in load_tensors(path).items() if not key.startswith(lost)})
    with pytest.raises(BundleError, match="incomplete"):
        load_golden(path)


def test_foreign_tensors_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_tensors(path, {"blocks.0.attn.qkv.weight": np.zeros(3, np.float32)})
    with pytest.raises(BundleError, match=r"'blocks\.0\.attn\.qkv\.weight' belongs to no golden case"):
        load_golden(path)
    save_tensors(path, {})
    with pytest.raises(BundleError, match="incomplete"):
        load_golden(path)


def test_keep_aspect_is_aimed_by_its_short_side() -> None:
    official = Preprocess.from_preset("official", None, IMAGENET_MEAN, IMAGENET_STD)
    assert (at_size(official, (64, 96)).height, at_size(official, (64, 96)).width) == (64, 96)
    keep = Preprocess.from_preset("keep-aspect", None, IMAGENET_MEAN, IMAGENET_STD)
    assert (at_size(keep, (64, 96)).height, at_size(keep, (64, 96)).width) == (64, 64)
