"""Images in cells of every type, in Parquet, Arrow and datasets; what cannot be images is one line."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from dinodeploy.sources import open_source, origins_of
from tests.dinodeploy.sources.reading import ids, misuse, read_all, read_by_threads
from tests.support.images.image_files import encoded

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COFFEE, CHINA, ROCKET = (encoded(name) for name in ("coffee", "china", "rocket"))
WANTED = [np.asarray(open_image(data)) for data in (COFFEE, CHINA)]
STRUCT = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
LONGEST = max(len(COFFEE), len(CHINA))


def cells(*images: bytes | None) -> list[dict[str, Any] | None]:
    return [None if data is None else {"bytes": data, "path": None} for data in images]


class Picture(pa.ExtensionType):  # type: ignore[misc]
    """An extension type that another library registers."""

    def __init__(self, storage: Any) -> None:
        super().__init__(storage, "tests.picture")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Any:
        return cls(storage)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def dictionary(values: Any) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0, 1]), values)


def columns() -> dict[str, Any]:
    """Columns of two images each, by the name of their type."""
    found = {
        "binary": pa.array([COFFEE, CHINA], pa.binary()),
        "large_binary": pa.array([COFFEE, CHINA], pa.large_binary()),
        "fixed": pa.array([one.ljust(LONGEST, b"\0") for one in (COFFEE, CHINA)], pa.binary(LONGEST)),
        "struct": pa.array(cells(COFFEE, CHINA), STRUCT),
        "struct of another name": pa.array(
            [{"label": 1, "content": COFFEE}, {"label": 2, "content": CHINA}],
            pa.struct([("label", pa.int64()), ("content", pa.binary())]),
        ),
        "path in a struct": pa.array(
            [{"bytes": None, "path": "c.jpg"}, {"bytes": CHINA, "path": "n"}], STRUCT
        ),
        "dictionary": dictionary(pa.array([COFFEE, CHINA])),
        "base64": pa.array([text(COFFEE), text(CHINA)]),
        "large base64": pa.array([text(COFFEE), text(CHINA)], pa.large_string()),
        "data URL": pa.array([f"data:image/jpeg;base64,{text(one)}" for one in (COFFEE, CHINA)]),
        "dictionary of base64": dictionary(pa.array([text(COFFEE), text(CHINA)])),
        "base64 and a path": pa.array([text(COFFEE), "d.jpg"]),
        "extension": pa.ExtensionArray.from_storage(Picture(pa.binary()), pa.array([COFFEE, CHINA])),
        "extension of a struct": pa.ExtensionArray.from_storage(
            Picture(STRUCT), pa.array(cells(COFFEE, CHINA), STRUCT)
        ),
    }
    if hasattr(pa, "binary_view"):
        found["binary_view"] = pa.array([COFFEE, CHINA], pa.binary_view())
        found["string_view"] = pa.array([text(COFFEE), text(CHINA)], pa.string_view())
    return found


def lists() -> dict[str, Any]:
    """Columns of lists: two images, none, null, one image and null."""
    rows = [[COFFEE, CHINA], [], None, [ROCKET, None]]
    return {
        "list of binary": pa.array(rows, pa.list_(pa.binary())),
        "large list": pa.array(rows, pa.large_list(pa.large_binary())),
        "list of struct": pa.array([None if row is None else cells(*row) for row in rows], pa.list_(STRUCT)),
        "list of base64": pa.array(
            [None if row is None else [one and text(one) for one in row] for row in rows],
            pa.list_(pa.string()),
        ),
        "extension": pa.ExtensionArray.from_storage(
            Picture(pa.list_(pa.binary())), pa.array(rows, pa.list_(pa.binary()))
        ),
    }


def write(name: str, column: Any, title: str = "image") -> None:
    rows = pa.table({title: column, "key": [f"k{row}" for row in range(len(column))]})
    if name.endswith(".parquet"):
        pq.write_table(rows, name, row_group_size=3)
    else:
        with pa.OSFile(name, "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)


@pytest.fixture(autouse=True)
def files(here: Path) -> None:
    Path("c.jpg").write_bytes(COFFEE)
    Path("d.jpg").write_bytes(CHINA)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize("kind", columns())
def test_cells_of_every_type(kind: str, name: str) -> None:
    try:
        write(name, columns()[kind])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        pytest.skip(str(error))
    seen = read_all(name)
    assert list(seen) == [f"{name}#0", f"{name}#1"]
    for pixels, wanted in zip(seen.values(), WANTED, strict=True):
        np.testing.assert_array_equal(pixels, wanted)
    assert ids(name, id_column="key") == ["k0", "k1"]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize("kind", lists())
@pytest.mark.parametrize("title", ["images", "odd"])
def test_several_images_in_a_row(kind: str, name: str, title: str) -> None:
    write(name, lists()[kind], title)
    options = {"column": title} if kind == "list of base64" else {}
    seen = read_all(name, **options)
    assert list(seen) == [f"{name}#{row}" for row in ("0#0", "0#1", "1", "2", "3#0", "3#1")]
    reasons = [pixels if isinstance(pixels, str) else "" for pixels in seen.values()]
    assert [reason.partition(": ")[2] for reason in reasons] == [
        "", "", "this row holds no image", "this row holds no image", "", "this row holds no image"
    ]  # fmt: skip
    for at, wanted in ((0, WANTED[0]), (1, WANTED[1]), (4, np.asarray(open_image(ROCKET)))):
        np.testing.assert_array_equal(list(seen.values())[at], wanted)
    assert ids(name, id_column="key", **options)[:3] == ["k0#0", "k0#1", "k1"]


def test_fixed_size_lists() -> None:
    write("t.parquet", pa.array([[COFFEE, CHINA]], pa.list_(pa.binary(), 2)))
    assert list(read_all("t.parquet")) == ["t.parquet#0#0", "t.parquet#0#1"]


def test_many_lists_from_any_thread() -> None:
    rows = [[encoded("coffee", (60 + row, 45))] * (row % 4) for row in range(300)]
    write("t.parquet", pa.array(rows, pa.list_(pa.binary())))
    source = open_source(["t.parquet"])
    sizes = [0 if isinstance(one, str) else one.shape[1] for one in read_by_threads(source)]
    assert sizes == [60 + row if row % 4 else 0 for row in range(300) for _ in range(max(1, row % 4))]
    source.close()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([1, 2]), "int64"),
        (pa.array([1.5, 2]), "double"),
        (pa.array([True, False]), "bool"),
        (pa.array([None, None]), "null"),
        (pa.array([[1, 2], [3]]), "list<"),
        (pa.array([[[COFFEE]], []]), "list<"),
        (pa.array([[("a", COFFEE)], []], pa.map_(pa.string(), pa.binary())), "map<"),
        (pa.array([{"x": 1}, {"x": 2}]), "struct<x: int64>"),
        (pa.array([{"a": b"1", "b": b"2"}] * 2), "struct<a: binary"),
        (pa.array([{"image": {"bytes": COFFEE, "path": None}}] * 2), "struct<image: struct<"),
        (pa.array([b"12345678", b"12345678"], pa.binary(8)), "fixed_size_binary[8]"),
        (pa.array([0, 1], pa.timestamp("ms")), "timestamp"),
    ],
)
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_what_cannot_be_images_is_one_line(column: Any, words: str, name: str) -> None:
    pa_table = pa.table({"image": column})
    if name.endswith(".parquet"):
        pq.write_table(pa_table, name)
    else:
        with pa.OSFile(name, "wb") as file, pa.ipc.new_file(file, pa_table.schema) as writer:
            writer.write_table(pa_table)
    for options in ({}, {"column": "image"}):
        message = misuse(name, **options)
        assert f"column 'image' is {words}" in message
        assert "wanted binary" in message


def test_ids_must_be_text_or_numbers() -> None:
    pq.write_table(pa.table({"image": [COFFEE], "key": [{"a": 1}]}), "t.parquet")
    assert "column 'key' holds dict, wanted text or numbers" in misuse("t.parquet", id_column="key")


def test_two_columns_of_one_name_in_a_schema() -> None:
    column = pa.array([COFFEE])
    rows = pa.Table.from_arrays([column, column], ["image", "image"])
    with pa.OSFile("t.arrow", "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)
    assert "has 2 columns 'image'" in misuse("t.arrow")


def test_base64_in_csv() -> None:
    rows = [text(encoded("coffee", (60 + row, 45))) for row in range(200)]
    Path("t.csv").write_text(
        "\n".join(["key,image", *(f"k{row},{one}" for row, one in enumerate(rows)), "x,"])
    )
    source = open_source(["t.csv"])
    assert list(source.ids) == [f"t.csv#{row}" for row in range(201)]
    seen = read_by_threads(source)
    assert [one.shape[1] for one in seen[:200]] == [60 + row for row in range(200)]  # type: ignore[union-attr]
    assert "this row holds no image" in str(seen[200])
    assert list(origins_of(source)) == ["t.csv: base64"]
    source.close()
    assert ids("t.csv", id_column="key")[-1] == "x"


def test_rows_with_more_cells_than_the_header_are_quarantined() -> None:
    Path("t.csv").write_text("path,label\nc.jpg,cat\na, b.jpg,dog\nd.jpg,dog,\n")
    seen = read_all("t.csv")
    assert list(seen) == ["c.jpg", "t.csv#1", "d.jpg"]
    assert "this row has 3 cells, the header 2" in str(seen["t.csv#1"])


def test_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    lists = {"images": [[COFFEE, CHINA], [], [ROCKET]], "n": [1, 2, 3]}
    datasets.Dataset.from_dict(lists).save_to_disk("ds")
    seen = read_all("ds")
    assert list(seen) == ["ds#0#0", "ds#0#1", "ds#1", "ds#2#0"]
    np.testing.assert_array_equal(seen["ds#2#0"], np.asarray(open_image(ROCKET)))
    datasets.Dataset.from_dict({"image": [text(COFFEE), text(CHINA)]}).save_to_disk("b64")
    np.testing.assert_array_equal(read_all("b64")["b64#1"], WANTED[1])
    datasets.Dataset.from_dict({"image": [1, 2]}).save_to_disk("n")
    assert "column 'image' is int64" in misuse("n")
