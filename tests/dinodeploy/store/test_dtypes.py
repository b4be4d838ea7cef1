"""How exact each dtype is, and that every format keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy import MisuseError, load_embeddings
from dinodeploy.store.dtypes import pack, parse_dtype, unpack
from dinodeploy.store.formats import FORMATS, Column
from tests.support.stores import write_store

pytest.importorskip("pyarrow")
IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
MIXED = [(4, 4), (4, 4), (2, 3), (4, 4), (5, 1)]

# dtype -> largest relative error of a vector of 384 normal numbers, and 1 - cosine
EXACT = {
    "float32": (0.0, 1e-12),
    "float16": (3e-4, 5e-8),  # measured 2.4e-4 and 2.9e-8
    "int8": (1.5e-2, 1e-4),  # measured 1.1e-2 and 5.7e-5
}


def vectors(n: int, dim: int = 384, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("dtype", EXACT)
def test_what_is_lost(dtype: Any) -> None:
    x = vectors(2000) * np.logspace(-3, 3, 2000, dtype=np.float32)[:, None]
    packed = pack("cls", Column(x), dtype)
    assert packed["cls"].values.dtype == dtype
    got = unpack(packed["cls"], packed.get("cls_scale")).values
    assert got.dtype == np.float32
    got, x = got.astype(np.float64), x.astype(np.float64)
    error = np.linalg.norm(got - x, axis=1) / np.linalg.norm(x, axis=1)
    cosine = (got * x).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(x, axis=1)
    limit, limit_cosine = EXACT[dtype]
    assert error.max() <= limit
    assert (1 - cosine).max() <= limit_cosine


def test_int8_is_off_by_half_a_step_at_most() -> None:
    x = vectors(100)
    packed = pack("cls", Column(x), "int8")
    scale = packed["cls_scale"].values
    assert scale.shape == (100, 1)
    np.testing.assert_allclose(scale[:, 0], np.abs(x).max(1) / 127, rtol=1e-6)
    assert (np.abs(packed["cls"].values * scale - x) <= scale * 0.5001).all()


def test_int8_of_zeros_and_of_one_outlier() -> None:
    x = np.zeros((2, 8), np.float32)
    x[1, 3] = -155_693.0
    packed = pack("cls", Column(x), "int8")
    np.testing.assert_allclose(unpack(packed["cls"], packed["cls_scale"]).values, x, rtol=1e-6)


def test_float16_does_not_overflow_in_silence() -> None:
    with pytest.raises(MisuseError, match=r"output 'layer_3' reaches 155,693, float16 ends at 65,504"):
        pack("layer_3", Column(np.full((2, 4), -155_693, np.float32)), "float16")


def test_names() -> None:
    assert [parse_dtype(name) for name in ("fp32", "fp16", "float16", "int8")] == [
        "float32",
        "float16",
        "float16",
        "int8",
    ]
    with pytest.raises(MisuseError, match="dtype 'fp8' is unknown; use one of fp32, fp16, int8"):
        parse_dtype("fp8")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("grids", [[(4, 4)] * 5, MIXED], ids=["one size", "sizes"])
def test_every_format_keeps_every_dtype(
    tmp_path: Path, format: str, dtype: Any, grids: list[tuple[int, int]]
) -> None:
    rows = [
        {"cls": vectors(1, 64, i)[0], "patch": vectors(h * w, 64, i).reshape(h, w, 64)}
        for i, (h, w) in enumerate(grids)
    ]
    write_store(tmp_path / "o", IDS, rows, outputs=["cls", "patch"], format=format, dtype=dtype)
    for output in ("cls", "patch"):
        ids, got = load_embeddings(tmp_path / "o", output)
        assert ids == IDS
        for row, wanted in zip(got, rows, strict=True):
            assert row.dtype == np.float32
            assert row.shape == wanted[output].shape
            packed = pack(output, Column(wanted[output][None]), dtype)
            exact = unpack(packed[output], packed.get(f"{output}_scale")).values[0]
            np.testing.assert_array_equal(row, exact)


@pytest.mark.parametrize("format", FORMATS)
def test_int8_takes_a_quarter_of_the_space(tmp_path: Path, format: str) -> None:
    rows = [{"cls": vector} for vector in vectors(200, 768)]
    ids = [f"{index}.jpg" for index in range(200)]
    bytes_of = {}
    for dtype in ("float32", "float16", "int8"):
        write_store(tmp_path / dtype, ids, rows, format=format, dtype=dtype, shard_size=200)
        files = [path for path in (tmp_path / dtype).rglob("*") if "metadata" not in path.parts]
        bytes_of[dtype] = sum(path.stat().st_size for path in files if path.is_file())
    assert bytes_of["float16"] < 0.56 * bytes_of["float32"]
    assert bytes_of["int8"] < 0.33 * bytes_of["float32"]
