"""A bundle as one file and back; whatever else is in a zip file stays there."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dinodeploy.bundle import archive
from dinodeploy.bundle.archive import LICENCE_FILE, pack, unpack
from dinodeploy.bundle.bundle import open_bundle
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
