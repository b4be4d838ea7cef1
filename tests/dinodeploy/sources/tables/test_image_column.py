"""Images in Parquet, Arrow and saved datasets, read from several threads in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.sources import SourceOptions, open_source, origins_of
from tests.dinodeploy.sources.reading import Pixels, assert_same, read_all, read_by_threads
from tests.support.images.image_tables import IMAGES, ROWS, table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")


def write_stream(path: str, rows: Any) -> None:
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        for batch in rows.to_batches(20):
            writer.write_batch(batch)


def write(name: str, kind: str) -> None:
    if name.endswith(".parquet"):
        pq.write_table(table(kind), name, row_group_size=37)
    elif name.endswith(".feather"):
        feather.write_feather(table(kind), name)
    else:
        write_stream(name, table(kind))


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary"])
def test_every_row_from_any_thread(name: str, kind: str, wanted: list[Pixels]) -> None:
    write(name, kind)
    source = open_source([name])
    assert list(source.ids) == [f"{name}#{row}" for row in range(ROWS)]
    assert source.ids[-1] == f"{name}#{ROWS - 1}"
    assert_same(read_by_threads(source), wanted)
    assert_same(list(read_all(name).values()), wanted)
    source.close()


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow", "ds"])
def test_ids_that_do_not_tell_the_column(name: str) -> None:
    """Then the file name is an origin; a column of row numbers is not."""
    rows = table("binary").append_column("small", pa.array(IMAGES[::-1], pa.binary()))
    if name == "ds":
        pytest.importorskip("datasets").Dataset(rows).save_to_disk(name)
    elif name.endswith(".parquet"):
        pq.write_table(rows, name)
    else:
        (feather.write_feather if name.endswith(".feather") else lambda t, n: write_stream(n, t))(rows, name)

    def origins(*names: str, **options: str) -> list[str]:
        return list(origins_of(open_source(names or [name], SourceOptions(**options))))

    assert origins() == origins(column="image") == []
    assert origins(column="small") == [f"{name}: small"]
    assert origins(id_column="key") == origins(id_column="key", column="image") == [f"{name}: image"]
    assert origins(id_column="key", column="small") == [f"{name}: small"]
    if name == "a.parquet":
        pq.write_table(rows, "b.parquet")
        assert origins(name, "b.parquet", column="small") == [f"{name}: small", "b.parquet: small"]


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_id_column(name: str) -> None:
    write(name, "struct")
    assert list(open_source([name], SourceOptions(id_column="key")).ids) == [f"k{row}" for row in range(ROWS)]
    assert open_source([name], SourceOptions(id_column="label")).ids[7] == "7"


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_a_table_may_name_images_instead(name: str) -> None:
    Path("p").mkdir()
    Path("p/1.jpg").write_bytes(IMAGES[0])
    rows = pa.table({"File_Name": ["1.jpg", None, "2.jpg"], "key": ["a", "b", "c"]})
    if name.endswith(".parquet"):
        pq.write_table(rows, f"p/{name}")
    elif name.endswith(".feather"):
        feather.write_feather(rows, f"p/{name}")
    else:
        write_stream(f"p/{name}", rows)
    seen = read_all(f"p/{name}")
    assert list(seen) == ["p/1.jpg", f"p/{name}#1", "p/2.jpg"]
    assert [isinstance(one, str) for one in seen.values()] == [False, True, True]
    assert list(read_all(f"p/{name}", id_column="key")) == ["a", "b", "c"]


def test_rows_without_an_image_keep_their_position() -> None:
    pq.write_table(pa.table({"image": [IMAGES[0], None, b"", b"no image", IMAGES[1]]}), "a.parquet")
    seen = list(read_all("a.parquet").values())
    assert [type(one) is str for one in seen] == [False, True, True, True, False]
    assert "'a.parquet#1': this row holds no image" in seen[1]


def test_damaged_tables_lose_only_themselves(wanted: list[Pixels]) -> None:
    pq.write_table(table(), "whole.parquet")
    Path("cut.parquet").write_bytes(Path("whole.parquet").read_bytes()[:20_000])
    content = bytearray(Path("whole.parquet").read_bytes())
    content[5000:20_000] = bytes(15_000)
    Path("holed.parquet").write_bytes(content)
    Path("empty.parquet").touch()
    seen = read_all("cut.parquet", "empty.parquet", "holed.parquet", "whole.parquet")
    assert list(seen)[:2] == ["cut.parquet", "empty.parquet"]
    assert "cannot be read as Parquet" in seen["cut.parquet"]
    assert_same(list(seen.values())[-ROWS:], wanted)
    for data in list(seen.values())[2 : 2 + ROWS]:
        assert isinstance(data, str) or data.ndim == 3
    write_stream("whole.arrow", table())
    Path("cut.arrow").write_bytes(
        Path("whole.arrow").read_bytes()[: 2 * Path("whole.arrow").stat().st_size // 3]
    )
    Path("text.arrow").write_text("not Arrow " * 99)
    seen = read_all("cut.arrow", "text.arrow")
    assert_same(list(seen.values())[:40], wanted[:40])
    assert "lost after" in seen["cut.arrow#rest"]
    assert "cannot be read as Arrow" in seen["text.arrow"]


def test_misuse_is_one_line() -> None:
    pq.write_table(table(), "a.parquet")
    pq.write_table(pa.table({"n": [1], "m": [2.0]}), "b.parquet")
    for name, options, message in (
        ("a.parquet", {"column": "nope"}, "'a.parquet' has no column 'nope', only image, key, label"),
        ("a.parquet", {"column": "label"}, "column 'label' is int64, wanted binary"),
        ("a.parquet", {"id_column": "nope"}, "has no column 'nope'"),
        ("b.parquet", {}, "has columns 'n', 'm'; none has a usual name"),
    ):
        with pytest.raises(MisuseError) as caught:
            open_source([name], SourceOptions(**options))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    pq.write_table(table(), "c.parquet")
    with pytest.raises(MisuseError, match="is given to two images"):
        open_source(["a.parquet", "c.parquet"], SourceOptions(id_column="key"))


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table(), "a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[parquet\]'"):
        open_source(["a.parquet"])
