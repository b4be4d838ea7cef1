"""A bundle as one file and back; whatever else is in a zip file stays there."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dinodeploy.bundle import archive
from dinodeploy.bundle.archive import pack, unpack
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.bundle.manifest import LICENCE_FILE, FileFacts, read_manifest, write_manifest
from dinodeploy.errors import BundleError, DinodeployError, MisuseError, OutputExistsError, TamperedError
from tests.support.processes.command_line import CommandLine, Ran


def assert_one_line(ran: Ran, words: str) -> None:
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.error


@pytest.fixture
def packed(tiny_bundle: Path, tmp_path: Path) -> Path:
    return pack(tiny_bundle, tmp_path / "model.zip")


def test_there_and_back(tiny_bundle: Path, packed: Path, tmp_path: Path) -> None:
    out = unpack(packed, tmp_path / "out")
    open_bundle(out).verify()
    for path in tiny_bundle.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert open_bundle(out).manifest.licence in (out / LICENCE_FILE).read_text()


def test_the_same_bundle_gives_the_same_bytes(packed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy", copy_function=shutil.copy)  # other times
    assert pack(copy, tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_what_is_damaged_is_not_packed(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-1] + b"?")
    with pytest.raises(TamperedError, match="not the file that was exported"):
        pack(copy, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_nothing_is_overwritten_unasked(packed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        pack(tiny_bundle, packed)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("work")
    with pytest.raises(OutputExistsError):
        unpack(packed, tmp_path / "mine", overwrite=True)  # no bundle, so it is not ours to replace
    assert (tmp_path / "mine" / "work.txt").read_text() == "work"
    out = unpack(packed, tmp_path / "out")
    assert unpack(packed, out, overwrite=True) == out


Change = Callable[[zipfile.ZipFile], None]


def rewrite(source: Path, target: Path, change: Change, leave_out: str = "") -> Path:
    """A copy of an archive, and what `change` adds to it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if info.filename != leave_out:
                new.writestr(info, old.read(info))
        change(new)
    return target


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def compressed(new: zipfile.ZipFile) -> None:
    new.writestr("parity.json", b" " * 1_000_000, zipfile.ZIP_DEFLATED)


def large(new: zipfile.ZipFile) -> None:
    new.writestr("parity.json", b"{" * (1 << 25))


FOLDER, LINK, DEVICE = stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFBLK | 0o600

# what is added, what is left out, and what is said
HOSTILE: dict[str, tuple[Change, str, str]] = {
    "absolute path": (lambda new: new.writestr("/tmp/evil", "x"), "", "no plain file name"),
    "parent": (lambda new: new.writestr("../evil", "x"), "", "no plain file name"),
    "parent inside": (lambda new: new.writestr("a/../../evil", "x"), "", "no plain file name"),
    "backslash": (lambda new: new.writestr("..\\evil", "x"), "", "no plain file name"),
    "drive": (lambda new: new.writestr("C:evil", "x"), "", "no plain file name"),
    "folder": (
        lambda new: new.writestr(entry("folder/", FOLDER), ""),
        "",
        "no plain file name",
    ),
    "hidden": (lambda new: new.writestr(".bashrc", "x"), "", "no plain file name"),
    "line break": (lambda new: new.writestr("a\nb", "x"), "", "no plain file name"),
    "link": (
        lambda new: new.writestr(entry("link", LINK), "/etc/passwd"),
        "",
        "no regular file",
    ),
    "device": (lambda new: new.writestr(entry("dev", DEVICE), ""), "", "no regular file"),
    "stranger": (lambda new: new.writestr("evil.so", "x"), "", "manifest does not list"),
    "other case": (lambda new: new.writestr("MODEL.onnx", "x"), "", "is there twice"),
    "bomb": (compressed, "parity.json", "is compressed"),
    "no manifest": (lambda new: None, "manifest.json", "holds no manifest.json"),
    "other model": (
        lambda new: new.writestr("model.onnx", b"x" * 10),
        "model.onnx",
        "bytes, the manifest says",
    ),
    "no model": (lambda new: None, "model.onnx", "is missing"),
    "large receipts": (
        lambda new: new.writestr("parity.json", b"{" * (1 << 25)),
        "parity.json",
        "wanted at most",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(name: str, packed: Path, tmp_path: Path) -> None:
    change, leave_out, words = HOSTILE[name]
    bad = rewrite(packed, tmp_path / "bad.zip", change, leave_out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=words) as caught:
        unpack(bad, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil").exists()


def overlapping(content: bytes, count: int) -> bytes:
    """The directory names the first entry `count` times."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        infos = old.infolist()
        start = old.start_dir
    directory = b""
    for number in range(count):
        name = b"model%03d.plan" % number
        header = struct.pack(
            "<4s4B4HL2L5H2L",
            b"PK\1\2",
            *(20, 3, 20, 0),
            *(0, 0, 0, 33),
            *(0, infos[0].file_size, infos[0].file_size),
            *(len(name), 0, 0, 0, 0),
            *(infos[0].external_attr, infos[0].header_offset),
        )
        directory += header + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)
    return content[:start] + directory + end


def _quoted(content: bytes) -> bytes:
    """One entry inside the data of another one."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("a.plan", b"x" * 100)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as file:
        file.writestr("b.plan", inner.getvalue()[: 30 + 6 + 100])
        a = file.infolist()[0]
        nested = zipfile.ZipInfo("a.plan")
        nested.file_size = nested.compress_size = 100
        nested.CRC = zlib.crc32(b"x" * 100)
        nested.header_offset = a.header_offset + 30 + 6
        nested.external_attr = a.external_attr
        file.filelist.append(nested)
        file.NameToInfo["a.plan"] = nested
        file._didModify = True  # type: ignore[attr-defined]
    return outer.getvalue()


def _claim(content: bytes, field: str) -> bytes:
    """An archive whose headers lie: a size, in one of the two places or in both, or a flag."""
    place = content.index(b"PK\1\2")
    changed = bytearray(content)
    if field == "larger in the directory":
        changed[place + 20 : place + 28] = struct.pack("<LL", 1 << 30, 1 << 30)
    elif field == "zip64 in the directory":
        changed[place + 20 : place + 28] = b"\xff" * 8
    elif field == "larger in the local header":
        changed[18:26] = struct.pack("<LL", 1 << 20, 1 << 20)
    elif field == "encrypted":
        changed[place + 8] |= 1
    elif field == "sizes after the data":
        changed[place + 8] |= 8
    elif field == "set user id":
        changed[place + 38 : place + 42] = struct.pack("<L", (stat.S_IFREG | 0o4755) << 16)
    elif field == "DOS folder":
        changed[place + 38] |= 0x10
    elif field == "huge directory":
        changed[-10:-6] = b"\xff\xff\xff\x7f"
    else:
        raise KeyError(field)
    return bytes(changed)


LIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a hundred overlapping entries": (lambda content: overlapping(content, 100), "no manifest.json|overlaps"),
    "an entry in an entry": (_quoted, "overlaps|no manifest"),
    "data before": (lambda content: b"#!/bin/sh\n" + content, "after a gap|is no archive"),
    "data after": (lambda content: content + b"x" * 100, "does not end as"),
    "an archive after": (lambda content: content + content, "after a gap|is no archive"),
    "a comment": (lambda content: content[:-2] + b"\x05\0hello", "does not end as"),
    "a gap": (
        lambda content: _with_gap(content),
        "after a gap|does not end where|is no archive",
    ),
    "cut off": (lambda content: content[: len(content) // 2], "is no archive"),
    "empty": (lambda content: b"", "is no archive"),
    **{
        field: (functools.partial(_claim, field=field), "entry|is no archive|its last entry")
        for field in (
            "larger in the directory",
            "zip64 in the directory",
            "larger in the local header",
            "encrypted",
            "sizes after the data",
            "set user id",
            "DOS folder",
            "huge directory",
        )
    },
}


def _with_gap(content: bytes) -> bytes:
    """Bytes that no entry names, between the entries and the directory."""
    start, size = content.index(b"PK\1\2"), len(content)
    changed = content[:start] + b"hidden" + content[start:]
    (offset,) = struct.unpack("<L", content[size - 6 : size - 2])
    return changed[:-6] + struct.pack("<L", offset + 6) + changed[-2:]


@pytest.mark.parametrize("kind", LIES)
def test_archives_that_lie(kind: str, packed: Path, tmp_path: Path) -> None:
    lie, words = LIES[kind]
    (tmp_path / "bad.zip").write_bytes(lie(packed.read_bytes()))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=words) as caught:
        unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_overlapping_entries_that_the_manifest_lists(packed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """A sealed manifest lists a hundred plans, and all of them are the same bytes of the archive."""
    content = (tiny_bundle / "model.onnx").read_bytes()
    names = [f"model{number:03}.plan" for number in range(100)]
    facts = FileFacts(hashlib.sha256(content).hexdigest(), len(content))
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    manifest = read_manifest(copy)
    write_manifest(replace(manifest, files={**manifest.files, **dict.fromkeys(names, facts)}), copy)
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as file:
        for path in sorted(copy.iterdir()):
            file.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
        first = file.getinfo("model.onnx")
        for name in names:
            info = zipfile.ZipInfo(name)
            for field in ("file_size", "compress_size", "CRC", "header_offset", "external_attr"):
                setattr(info, field, getattr(first, field))
            file.filelist.append(info)
    with pytest.raises(BundleError, match="overlaps another"):
        unpack(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dot_at_the_end_is_no_other_name(packed: Path, tmp_path: Path) -> None:
    bad = rewrite(packed, tmp_path / "bad.zip", lambda new: new.writestr("model.onnx.", "x"))
    with pytest.raises(BundleError, match="is there twice"):
        unpack(bad, tmp_path / "out")


def test_an_archive_that_is_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(MisuseError, match="no such file"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


def test_what_another_tool_packed_without_compression(tiny_bundle: Path, tmp_path: Path) -> None:
    """`zip -0` and `python -m zipfile` write what we read."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in tiny_bundle.iterdir():
            file.write(path, path.name)
    open_bundle(unpack(tmp_path / "x.zip", tmp_path / "out")).verify()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(packed: Path, tmp_path: Path) -> None:
    bad = rewrite(packed, tmp_path / "bad.zip", lambda new: new.writestr("model.onnx", "x"))
    with pytest.raises(BundleError, match="is there twice"):
        unpack(bad, tmp_path / "out")


def test_an_entry_that_lies_about_its_size(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is counted too, whatever the headers say."""
    monkeypatch.setattr(archive, "CHUNK", 64)
    real = zipfile.ZipFile.infolist

    def lying(self: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        found = real(self)
        for info in found:
            if info.filename == "parity.json":
                archive.EXTRAS["parity.json"] = 100
        return found

    monkeypatch.setitem(archive.EXTRAS, "parity.json", 1 << 24)
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lying)
    with pytest.raises(BundleError, match="wanted at most 100"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("step", [7, 61, 509])
def test_a_damaged_archive_is_one_clear_error(packed: Path, tmp_path: Path, step: int) -> None:
    content = bytearray(packed.read_bytes())
    for place in range(step, len(content), max(step * 97, len(content) // 40)):
        bad = bytearray(content)
        bad[place] ^= 0xFF
        (tmp_path / "bad.zip").write_bytes(bad)
        out = tmp_path / f"out{place}"
        try:
            unpack(tmp_path / "bad.zip", out)
        except DinodeployError as error:
            refused = str(error)
        else:  # a byte that nothing depends on, such as a date
            open_bundle(out).verify()
            continue
        assert "\n" not in refused
        assert not out.exists()


def test_the_commands(
    tiny_bundle: Path, tmp_path: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("bundle", "pack", tiny_bundle, "--out", "m.zip")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == "next: dinodeploy bundle unpack m.zip"
    ran = run("bundle", "unpack", "m.zip")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "m: unpacked and verified")
    ran = run("bundle", "verify", "m")
    assert ran.code == 0
    assert ran.out.endswith("files are what was exported; not signed\n")
    (Path("m") / "golden.safetensors").write_bytes(b"")
    assert_one_line(run("bundle", "verify", "m"), "the manifest says")
    assert_one_line(run("bundle", "unpack", "none.zip"), "no such file")


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("words")
    with pytest.raises(BundleError, match="is no archive of a bundle"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    with pytest.raises(MisuseError, match="no such file"):
        unpack(tmp_path / "y.zip", tmp_path / "out")
