"""safetensors files: what is written is read, and whatever is wrong with a file is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.tensors import DTYPES, load_tensors, read_metadata, save_tensors

RNG = np.random.default_rng(0)
TENSORS: dict[str, np.ndarray[Any, Any]] = {
    **{f"t.{dtype}": RNG.integers(0, 2, (3, 5)).astype(dtype) for dtype in DTYPES},
    'quoted " and é': RNG.standard_normal((2, 3, 4)).astype(np.float32),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 7), np.float32),
    "first": np.arange(3, dtype=np.int8),
}


def assert_same(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        np.testing.assert_array_equal(got[name], tensor)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_tensors(tmp_path / "f", TENSORS, {"photo": "café"})
    assert_same(load_tensors(tmp_path / "f"), TENSORS)
    assert read_metadata(tmp_path / "f") == {"photo": "café"}
    assert_same(safetensors.numpy.load_file(tmp_path / "f"), TENSORS)
    save_tensors(tmp_path / "plain", TENSORS)
    assert read_metadata(tmp_path / "plain") == {}


def test_the_bytes_do_not_depend_on_order_or_memory_layout(tmp_path: Path) -> None:
    tensor = RNG.standard_normal((4, 6)).astype(np.float32)
    other = np.arange(3)
    save_tensors(tmp_path / "a", {"x": tensor, "y": other}, {"k": "v"})
    save_tensors(tmp_path / "b", {"y": other, "x": np.asfortranarray(tensor).astype(">f4")}, {"k": "v"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(load_tensors(tmp_path / "b")["x"], tensor)


def test_loaded_tensors_are_aligned_and_writable(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    write(path, {"a": entry("U8", [1], 0, 1), "b": entry("F32", [1], 1, 5)}, b"\1" + np.float32(7).tobytes())
    loaded = load_tensors(path)
    assert loaded["b"].flags.aligned
    assert loaded["b"].flags.writeable
    assert loaded["b"][0] == 7


def test_what_cannot_be_saved_is_misuse_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    save_tensors(path, {"x": np.zeros(1, np.float32)})
    before = path.read_bytes()
    with pytest.raises(MisuseError, match="tensor 'x': got dtype complex128, wanted one of bool"):
        save_tensors(path, {"x": np.zeros(1, np.complex128)})
    with pytest.raises(MisuseError, match="reserves this name"):
        save_tensors(path, {"__metadata__": np.zeros(1, np.float32)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(path: Path, header: Any, buffer: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + buffer)


GOOD = entry("F32", [2], 0, 8)


@pytest.mark.parametrize(
    ("header", "buffer"),
    [
        pytest.param({"a": GOOD}, 7, id="too short"),
        pytest.param({"a": GOOD}, 9, id="too long"),
        pytest.param({"a": GOOD, "b": entry("F32", [2], 4, 12)}, 12, id="overlap"),
        pytest.param({"a": GOOD, "b": entry("F32", [2], 12, 20)}, 20, id="hole"),
        pytest.param({"a": entry("F32", [2], 8, 16)}, 16, id="hole at the start"),
        pytest.param({"a": entry("F32", [3], 0, 8)}, 8, id="shape larger than the bytes"),
        pytest.param({"a": entry("F32", [-2], 8, 0)}, 8, id="negative"),
        pytest.param({"a": entry("F32", [True, 2], 0, 8)}, 8, id="true"),
        pytest.param({"a": entry("F32", [2.0], 0, 8)}, 8, id="float"),
        pytest.param({"a": entry("F32", [1] * 100, 0, 4)}, 4, id="100 dimensions"),
        pytest.param({"a": entry("F32", [0, 2**63], 0, 0)}, 0, id="huge"),
        pytest.param({"a": entry("F32", 2, 0, 8)}, 8, id="no list"),
        pytest.param({"a": entry("F32", [2], 0, None)}, 8, id="no end"),
        pytest.param({"a": entry("F7", [2], 0, 8)}, 8, id="unknown dtype"),
        pytest.param({"a": entry("BF16", [2], 0, 4)}, 4, id="bfloat16"),
        pytest.param({"a": entry("C64", [1], 0, 8)}, 8, id="complex"),
        pytest.param({"a": entry([], [2], 0, 8)}, 8, id="no dtype"),
        pytest.param({"a": []}, 0, id="no entry"),
        pytest.param({"a": entry("BOOL", [1], 0, 1)}, 1, id="255 as a BOOL"),
        pytest.param({"__metadata__": {"a": 1}}, 0, id="metadata"),
        pytest.param([], 0, id="list"),
        pytest.param(b'{"a": NaN}', 0, id="NaN"),
        pytest.param(b"{", 0, id="cut"),
        pytest.param(b"", 0, id="empty"),
    ],
)
def test_broken_file_is_one_line(tmp_path: Path, header: Any, buffer: int) -> None:
    write(tmp_path / "f", header, b"\xff" * buffer)
    with pytest.raises(BundleError) as caught:
        load_tensors(tmp_path / "f")
    assert str(tmp_path / "f") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}"])
def test_header_longer_than_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(BundleError):
        read_metadata(tmp_path / "f")


def test_header_past_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)  # sparse: takes no disk
    with pytest.raises(BundleError, match=r"(?i)header ?too ?large"):
        read_metadata(tmp_path / "f")


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "fifo", Path("nul\0byte")):
        with pytest.raises(BundleError):
            load_tensors(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_file_raises_only_bundle_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "f"
    save_tensors(
        path, {name: TENSORS[name] for name in ("t.bool", "t.float32", "scalar", "empty")}, {"k": "v"}
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[place] = data.draw(st.integers(0, 255))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 9))]
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    path.write_bytes(content)
    try:
        tensors = load_tensors(path)
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017  most mutations fail, some do no harm
    else:
        assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "a.safetensors", {"x": np.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask
