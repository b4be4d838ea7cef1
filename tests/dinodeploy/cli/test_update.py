"""`embed --update` of the inputs that people have, followed by `index --update` of the store."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from tests.support.followed import assert_same_rows
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

Files = Mapping[str, bytes]


def encoded(name: str, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    photograph(name).resize((side, side)).save(buffer, "PNG")
    return buffer.getvalue()


BEFORE = {
    "a.png": encoded("astronaut"),
    "b.png": encoded("chelsea"),
    "c.png": b"not an image",
    "d.png": encoded("coffee"),
    "e.png": encoded("rocket"),
}
NOW = {  # b changed, c can be read, d has another name, e is gone, z is new
    "a.png": BEFORE["a.png"],
    "b.png": encoded("retina", 80),
    "c.png": encoded("rocket", 48),
    "d2.png": BEFORE["d.png"],
    "z.png": encoded("chelsea", 72),
}


def _folder(files: Files) -> str:
    folder = Path("images")
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
    return "images"


def _list(files: Files) -> str:
    folder = _folder(files)
    Path("list.txt").write_text("".join(f"{folder}/{name}\n" for name in files))
    return "list.txt"


def _csv(files: Files) -> str:
    folder = _folder(files)
    Path("table.csv").write_text("path,word\n" + "".join(f"{folder}/{name},{name}\n" for name in files))
    return "table.csv"


def _zip(files: Files) -> str:
    with zipfile.ZipFile("images.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return "images.zip"


def _tar(files: Files) -> str:
    with tarfile.open("images.tar", "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return "images.tar"


def _parquet(files: Files) -> str:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"name": list(files), "image": list(files.values())})
    parquet.write_table(table, "images.parquet")
    return "images.parquet"


SOURCES: dict[str, Callable[[Files], str]] = {
    "folder": _folder,
    "list": _list,
    "csv": _csv,
    "zip": _zip,
    "tar": _tar,
    "parquet": _parquet,
}


@pytest.fixture
def options(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    monkeypatch.chdir(tmp_path)
    return ["--engine", tiny_bundle, "--imgsz", 32, "--batch", 2, "--shard-size", 2]


@pytest.mark.parametrize("identify", ["stat", "hash"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source(kind: str, identify: str, options: list[object], run: CommandLine) -> None:
    if kind == "parquet":
        options += ["--id-column", "name"]
    options += ["--identify", identify]
    given = SOURCES[kind](BEFORE)
    first = run("embed", given, *options, "--out", "out", "--json")
    assert (first.code, first.json["embedded"], first.json["quarantined"]) == (5, 4, 1)
    assert run("embed", given, *options, "--out", "out").code == 0, "nothing new failed"
    given = SOURCES[kind](NOW)
    refused = run("embed", given, *options, "--out", "out")
    assert (refused.code, "pass --update to follow" in refused.error) == (2, True)
    updated = run("embed", given, *options, "--out", "out", "--update", "--json").json
    counts = {name: updated[name] for name in ("embedded", "quarantined", "changed", "new", "missing")}
    rewritten = identify == "stat" and kind in ("zip", "tar", "parquet")  # its time is that of every image
    changed = 3 if rewritten else 2
    assert counts == {"embedded": 5, "quarantined": 0, "changed": changed, "new": 2, "missing": 2}
    assert run("embed", given, *options, "--out", "anew").code == 0
    assert_same_rows(Path("out"), Path("anew"))
    again = run("embed", given, *options, "--out", "out", "--update", "--json").json
    assert (again["generation"], again["kept"]) == (updated["generation"], 5)


@pytest.mark.parametrize("kind", ["folder", "list", "zip", "tar"])
def test_rows_of_images_that_are_gone_are_kept(kind: str, options: list[object], run: CommandLine) -> None:
    run("embed", SOURCES[kind](BEFORE), *options, "--out", "out")
    kept = dict(zip(*load_embeddings("out"), strict=True))
    given = SOURCES[kind](NOW)
    for _ in range(2):  # the second has nothing to do
        ran = run("embed", given, *options, "--out", "out", "--update", "--keep-missing", "--json")
        assert (ran.code, ran.json["embedded"], ran.json["generation"]) == (0, 7, 2)
    ids, rows = load_embeddings("out")
    gone = [at for at, id_ in enumerate(ids) if id_.endswith(("/d.png", "/e.png"))]
    assert gone == [5, 6], "last"
    for at in gone:
        assert (rows[at] == kept[ids[at]]).all()


@pytest.mark.parametrize("format", ["npy", "parquet", "lance"])
def test_the_index_follows(format: str, options: list[object], run: CommandLine) -> None:
    pytest.importorskip("lance")
    options += ["--format", format]
    run("embed", _folder(BEFORE), *options, "--out", "out")
    assert run("index", "out").code == 0
    run("embed", _folder(NOW), *options, "--out", "out", "--update")
    ran = run("index", "out", "--update")
    assert ran.code == 0, ran.err
    found = run("search", "out", "--id", "images/d2.png", "--json")
    assert found.code == 0, found.err
    assert "images/e.png" not in found.out
    assert run("search", "out", "--id", "images/e.png").code == 2


def test_another_time_is_another_image_unless_the_content_identifies_it(
    options: list[object], run: CommandLine
) -> None:
    for identify, code in (("stat", 2), ("hash", 0)):
        chosen = [*options, "--identify", identify, "--out", identify]
        run("embed", _folder(BEFORE), *chosen)
        os.utime("images/a.png", ns=(1, 1 + len(identify)))
        assert run("embed", "images", *chosen).code == code
