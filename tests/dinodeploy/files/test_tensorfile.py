"""Our safetensors files against the reference package, byte for byte, and against broken files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.tensorfile import TensorInfo, load_tensors, read_header, save_tensors

RNG = np.random.default_rng(0)
TENSORS: dict[str, np.ndarray[Any, Any]] = {
    **{
        f"t.{dtype}": RNG.integers(0, 2, (3, 5)).astype(dtype)
        for dtype in ["?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8"]
    },
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


def test_bytes_are_those_of_the_reference_package(tmp_path: Path) -> None:
    for metadata in (None, {"photo": "café"}):
        save_tensors(tmp_path / "ours", TENSORS, metadata)
        assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save(TENSORS, metadata)


def test_each_reads_the_other(tmp_path: Path) -> None:
    save_tensors(tmp_path / "ours", TENSORS, {"b": "2", "a": "1"})
    assert_same(safetensors.numpy.load_file(tmp_path / "ours"), TENSORS)
    with safetensors.safe_open(tmp_path / "ours", framework="numpy") as file:
        assert file.metadata() == {"a": "1", "b": "2"}
    safetensors.numpy.save_file(TENSORS, tmp_path / "theirs", {"b": "2", "a": "1"})
    assert_same(load_tensors(tmp_path / "theirs"), TENSORS)
    assert read_header(tmp_path / "theirs")[1] == {"a": "1", "b": "2"}


def test_header_tells_types_shapes_and_places(tmp_path: Path) -> None:
    save_tensors(tmp_path / "f", {"b": np.zeros((2, 3), np.float16), "a": np.zeros(1, np.int64)})
    tensors, metadata = read_header(tmp_path / "f")
    assert tensors == {"a": TensorInfo("I64", (1,), 0, 8), "b": TensorInfo("F16", (2, 3), 8, 20)}
    assert list(tensors) == ["a", "b"]
    assert metadata == {}


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    periods = torch.tensor([1.0, 1.3359375, -0.0, 155648.0, 1e-30], dtype=torch.bfloat16)
    save_file({"periods": periods}, tmp_path / "f")
    loaded = load_tensors(tmp_path / "f")["periods"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, periods.float().numpy())
    assert read_header(tmp_path / "f")[0]["periods"].dtype == "BF16"


def test_any_memory_layout_gives_the_same_bytes(tmp_path: Path) -> None:
    tensor = RNG.standard_normal((4, 6)).astype(np.float32)
    save_tensors(tmp_path / "a", {"x": tensor})
    save_tensors(tmp_path / "b", {"x": np.asfortranarray(tensor).astype(">f4")})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


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
    with pytest.raises(MisuseError, match="tensor 'x': got dtype complex128, wanted one of int64"):
        save_tensors(path, {"x": np.zeros(1, np.complex128)})
    with pytest.raises(MisuseError, match="keeps this name"):
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
    ("header", "buffer", "message"),
    [
        ({"a": GOOD}, 7, "got 7 bytes of tensors, wanted 8"),
        ({"a": GOOD}, 9, "got 9 bytes of tensors, wanted 8"),
        ({"a": GOOD, "b": entry("F32", [2], 4, 12)}, 12, "tensor 'b': at byte 4 it overlaps"),
        ({"a": GOOD, "b": entry("F32", [2], 12, 20)}, 20, "tensor 'b': at byte 12 it leaves a hole"),
        ({"a": entry("F32", [2], 8, 16)}, 16, "tensor 'a': at byte 8 it leaves a hole"),
        ({"a": entry("F32", [3], 0, 8)}, 8, "tensor 'a': F32 [3] does not fill bytes 0 to 8"),
        ({"a": entry("F32", [-2], 8, 0)}, 8, "tensor 'a': shape wanted"),
        ({"a": entry("F32", [True, 2], 0, 8)}, 8, "tensor 'a': shape wanted"),
        ({"a": entry("F32", [2.0], 0, 8)}, 8, "tensor 'a': shape wanted"),
        ({"a": entry("F32", [1] * 33, 0, 4)}, 4, "tensor 'a': shape wanted"),
        ({"a": entry("F32", [0, 2**63], 0, 0)}, 0, "tensor 'a': shape wanted"),
        ({"a": entry("F32", 2, 0, 8)}, 8, "tensor 'a': shape wanted"),
        ({"a": entry("F32", [2], 0, None)}, 8, "tensor 'a': data_offsets wanted"),
        ({"a": entry("F7", [2], 0, 8)}, 8, "tensor 'a': got dtype 'F7', wanted one of I64"),
        ({"a": entry([], [2], 0, 8)}, 8, "tensor 'a': got dtype []"),
        ({"a": GOOD | {"more": 1}}, 8, "tensor 'a': wanted exactly dtype, shape and data_offsets"),
        ({"a": []}, 0, "tensor 'a': wanted exactly"),
        ({"a": entry("BOOL", [1], 0, 1)}, 1, "tensor 'a': got byte 255 for a BOOL"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__ wanted an object of strings"),
        ([], 0, "header: got list, wanted an object"),
        (b'{"a": NaN}', 0, "NaN is not a JSON number"),
        (b'{"a": {}, "a": {}}', 0, "key 'a' is given twice"),
        (b"{", 0, "not valid JSON"),
        (b"", 0, "not valid JSON"),
    ],
)
def test_broken_file_is_one_line(tmp_path: Path, header: Any, buffer: int, message: str) -> None:
    write(tmp_path / "f", header, b"\xff" * buffer)
    with pytest.raises(BundleError) as caught:
        load_tensors(tmp_path / "f")
    assert message in str(caught.value)
    assert str(tmp_path / "f") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}"])
def test_header_longer_than_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(BundleError, match="wanted a safetensors file"):
        read_header(tmp_path / "f")


def test_header_past_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)  # sparse: takes no disk
    with pytest.raises(BundleError, match="header of 100000001"):
        read_header(tmp_path / "f")


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "fifo", Path("nul\0byte")):
        with pytest.raises(BundleError):
            load_tensors(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_file_raises_nothing_but_bundle_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "f"
    save_tensors(path, {name: TENSORS[name] for name in ("t.?", "t.f4", "scalar", "empty")}, {"k": "v"})
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
