"""How exact each dtype is, and that every format keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy import MisuseError, OutputExistsError, load_embeddings
from dinodeploy.store.dtypes import pack, parse_dtype, unit_length, unpack
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


# ---- length 1 ------------------------------------------------------------------------------------


def test_unit_length_of_small_large_and_zero_vectors() -> None:
    x = np.array([[3, 4], [0, 0], [1e-30, 0], [3e38, 3e38], [np.inf, 1]], np.float32)
    unit, good = unit_length(x)
    assert good.tolist() == [True, False, True, True, False]
    np.testing.assert_allclose(unit[:4], [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5] * 2], rtol=1e-6)
    maps = vectors(24).reshape(2, 3, 4, 384)
    unit, good = unit_length(maps)
    assert good.shape == (2, 3, 4)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-6)


def test_unit_length_does_not_depend_on_the_rows_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    x = vectors(50)
    whole, _ = unit_length(x)
    monkeypatch.setattr("dinodeploy.store.dtypes._BLOCK", 384 * 7)
    assert unit_length(x)[0].tobytes() == whole.tobytes()
    assert unit_length(x[17])[0].tobytes() == whole[17].tobytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", EXACT)
def test_a_normalized_store_holds_vectors_of_length_1(tmp_path: Path, format: str, dtype: Any) -> None:
    x = vectors(5) * 40  # longer than 1, some values beyond 100
    x[3] = 0
    grids = [np.ones((h, w, 6), np.float32) for h, w in MIXED]
    rows = [{"cls": row, "patch": grid} for row, grid in zip(x, grids, strict=True)]
    manifest = write_store(
        tmp_path / "s", IDS, rows, outputs=("cls", "patch"), format=format, dtype=dtype, normalize=True
    )
    assert manifest.normalize
    _, got = load_embeddings(tmp_path / "s")
    lengths = np.linalg.norm(got, axis=1)
    assert lengths[3] == 0
    np.testing.assert_allclose(np.delete(lengths, 3), 1, atol={"int8": 5e-3}.get(dtype, 5e-4))
    np.testing.assert_allclose(got, unit_length(x)[0], atol={"int8": 2e-3}.get(dtype, 1e-4))
    _, maps = load_embeddings(tmp_path / "s", "patch")
    np.testing.assert_allclose(maps[2], np.full((2, 3, 6), 6**-0.5), rtol=1e-2)


def test_normalizing_when_written_or_when_loaded_is_the_same(tmp_path: Path) -> None:
    rows = [{"cls": row} for row in vectors(5)]
    for name in (False, True):
        write_store(tmp_path / str(name), IDS, rows, normalize=name)
    stored = [load_embeddings(tmp_path / str(name), normalize=True)[1] for name in (False, True)]
    np.testing.assert_allclose(stored[0], stored[1], atol=1e-7)
    raw = load_embeddings(tmp_path / "False", normalize=False)[1]
    assert np.asarray(raw).tobytes() == vectors(5).tobytes()
    with pytest.raises(MisuseError, match=r"vectors of length 1 \(`embed --normalize`\)"):
        load_embeddings(tmp_path / "True", normalize=False)


def test_a_store_is_not_resumed_with_other_lengths(tmp_path: Path) -> None:
    rows = [{"cls": row} for row in vectors(5)]
    write_store(tmp_path / "s", IDS, rows)
    with pytest.raises(OutputExistsError, match="normalize: false, now true"):
        write_store(tmp_path / "s", IDS, rows, normalize=True)


def test_values_beyond_float16_fit_when_normalized(tmp_path: Path) -> None:
    rows = [{"cls": row * 1e5} for row in vectors(5)]
    with pytest.raises(MisuseError, match="float16 ends at 65,504; start again with --normalize"):
        write_store(tmp_path / "raw", IDS, rows, dtype="float16")
    write_store(tmp_path / "unit", IDS, rows, dtype="float16", normalize=True)
    _, got = load_embeddings(tmp_path / "unit")
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, unit_length(vectors(5))[0], atol=5e-4)


def test_a_store_of_before_has_lengths_of_the_model(tmp_path: Path) -> None:
    write_store(tmp_path / "s", IDS, [{"cls": row} for row in vectors(5)])
    path = tmp_path / "s" / "embeddings.json"
    document = json.loads(path.read_text())
    del document["normalize"]
    path.write_text(json.dumps(document))
    assert load_embeddings(tmp_path / "s", normalize=False)[0] == IDS
