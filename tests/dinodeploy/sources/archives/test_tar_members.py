"""Members of tar files of every type, in every dialect, and several archives in one file."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from dinodeploy.sources import open_source
from tests.dinodeploy.sources.reading import read_all
from tests.support.images.image_files import NAMES, encoded, write_tar

COFFEE, CHINA = encoded("coffee"), encoded("china")


def write(path: str, *members: tuple[str, bytes | str, bytes], style: int = tarfile.PAX_FORMAT) -> None:
    """Members (name, content or target of a link, type)."""
    with tarfile.open(path, "w", format=style) as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def same(seen: object, data: bytes) -> bool:
    return isinstance(seen, np.ndarray) and bool((seen == np.asarray(open_image(data))).all())


FILE, HARD, SOFT, FOLDER = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_of_every_type(style: int) -> None:
    write(
        "a.tar",
        ("early.jpg", "a/1.jpg", SOFT),  # leads to a member that comes later
        ("a", b"", FOLDER),
        ("a/1.jpg", COFFEE, FILE),
        ("a/blob", CHINA, FILE),
        ("hard.jpg", "a/1.jpg", HARD),
        ("hard-of-hard.jpg", "hard.jpg", HARD),
        ("a/soft.jpg", "1.jpg", SOFT),
        ("b/up.jpg", "../a/./soft.jpg", SOFT),
        ("by-suffix.jpg", "a/blob", SOFT),
        ("folder", "a", SOFT),
        ("through.jpg", "folder/1.jpg", SOFT),
        ("soft-of-hard.jpg", "hard-of-hard.jpg", SOFT),
        style=style,
    )
    seen = read_all("a.tar")
    assert len(seen) == 9
    assert same(seen.pop("a.tar/by-suffix.jpg"), CHINA)
    assert [name for name, pixels in seen.items() if not same(pixels, COFFEE)] == []
    assert open_source(["a.tar"]).skipped == {"a.tar": {"": 1}}  # type: ignore[attr-defined]


def test_links_that_lead_nowhere_are_quarantined() -> None:
    write(
        "a.tar",
        ("a/x.jpg", COFFEE, FILE),
        ("missing.jpg", "none.jpg", SOFT),
        ("hard.jpg", "none.jpg", HARD),
        ("loop.jpg", "pool.jpg", SOFT),
        ("pool.jpg", "loop.jpg", SOFT),
        ("out.jpg", "../../etc/passwd.jpg", SOFT),
        ("etc.jpg", "/etc/passwd", SOFT),
        ("folder.jpg", "a", SOFT),
        ("pipe.jpg", b"", tarfile.FIFOTYPE),
        ("disk.jpg", b"", tarfile.BLKTYPE),
        ("tty.jpg", b"", tarfile.CHRTYPE),
        ("rest.jpg", CHINA, b"M"),
    )
    seen = read_all("a.tar")
    assert same(seen.pop("a.tar/a/x.jpg"), COFFEE)
    assert {name.partition("/")[2]: str(why).partition(": ")[2] for name, why in seen.items()} == {
        "missing.jpg": "a link to 'none.jpg', which is not in the archive",
        "hard.jpg": "a link to 'none.jpg', which is not in the archive",
        "loop.jpg": "a link to 'pool.jpg', which leads back to itself",
        "pool.jpg": "a link to 'loop.jpg', which leads back to itself",
        "out.jpg": "a link to '../../etc/passwd.jpg', which leads out of the archive",
        "etc.jpg": "a link to '/etc/passwd', which leads out of the archive",
        "folder.jpg": "a link to 'a', which is not in the archive",
        "pipe.jpg": "not a regular file",
        "disk.jpg": "not a regular file",
        "tty.jpg": "not a regular file",
        "rest.jpg": "the rest of a file that begins in another volume",
    }


def test_a_hard_link_is_the_file_that_was_there_and_a_symbolic_link_the_last() -> None:
    write(
        "a.tar",
        ("x.jpg", COFFEE, FILE),
        ("hard.jpg", "x.jpg", HARD),
        ("soft.jpg", "x.jpg", SOFT),
        ("x.jpg", CHINA, FILE),
        ("later.jpg", "x.jpg", HARD),
    )
    seen = read_all("a.tar")
    assert same(seen["a.tar/hard.jpg"], COFFEE)
    assert same(seen["a.tar/soft.jpg"], CHINA)
    assert same(seen["a.tar/later.jpg"], CHINA)
    assert same(seen["a.tar/x.jpg#2"], CHINA)


def test_absolute_names_may_be_linked() -> None:
    write("a.tar", ("/d/x.jpg", COFFEE, FILE), ("/d/l.jpg", "x.jpg", SOFT), ("m.jpg", "/d/x.jpg", SOFT))
    assert [same(pixels, COFFEE) for pixels in read_all("a.tar").values()] == [True] * 3


def test_names_that_lead_to_a_parent_folder_are_read_and_may_be_linked() -> None:
    """`tar -P` writes such names."""
    write(
        "a.tar",
        ("../d/x.jpg", COFFEE, FILE),
        ("../d/l.jpg", "../d/x.jpg", HARD),
        ("a/../m.jpg", COFFEE, FILE),
    )
    assert [same(pixels, COFFEE) for pixels in read_all("a.tar").values()] == [True] * 3


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_that_are_not_unicode(style: int) -> None:
    long = "d" * 90 + "/" + "é" * 200 + ".jpg"
    odd = os.fsdecode(b"caf\xe9.jpg")
    write("a.tar", (long, COFFEE, FILE), ("l" * 150 + ".jpg", long, HARD), (odd, CHINA, FILE), style=style)
    seen = read_all("a.tar")
    assert list(seen) == [f"a.tar/{long}", f"a.tar/{'l' * 150}.jpg", f"a.tar/{odd}"]
    assert all(
        same(pixels, data) for pixels, data in zip(seen.values(), (COFFEE, COFFEE, CHINA), strict=True)
    )


@pytest.mark.parametrize("padding", [0, 512, 10_240, 3_000_320])
def test_several_archives_in_one_file(padding: int) -> None:
    for number, name in enumerate(NAMES[:3]):
        write_tar(Path(f"{number}.tar"), {f"{name}.jpg": encoded(name)})
    write("3.tar", ("again.jpg", f"{NAMES[0]}.jpg", HARD))
    parts = [Path(f"{number}.tar").read_bytes() + bytes(padding) for number in range(4)]
    Path("all.tar").write_bytes(b"".join(parts))
    seen = read_all("all.tar")
    assert list(seen) == [*(f"all.tar/{name}.jpg" for name in NAMES[:3]), "all.tar/again.jpg"]
    assert same(seen["all.tar/again.jpg"], encoded(NAMES[0]))
    assert all(isinstance(pixels, np.ndarray) for pixels in seen.values())


def test_what_follows_an_archive_and_is_none_is_reported() -> None:
    write_tar(Path("a.tar"), {"x.jpg": COFFEE})
    size = Path("a.tar").stat().st_size
    Path("a.tar").write_bytes(Path("a.tar").read_bytes() + b"signature" * 100)
    seen = read_all("a.tar")
    assert same(seen["a.tar/x.jpg"], COFFEE)
    assert f"lost after 1 images: no header at byte {size}" in str(seen["a.tar#rest"])


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_members(version: str) -> None:
    bmp = encoded("coffee", (640, 480), format="BMP")
    holed = bytearray(bmp)
    holed[20_000:400_000] = bytes(380_000)
    with Path("x.bmp").open("wb") as file:
        for start, end in ((0, 20_000), (400_000, len(bmp))):
            file.seek(start)
            file.write(holed[start:end])
    Path("y.jpg").write_bytes(CHINA)
    os.link("x.bmp", "z.bmp")
    how = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    subprocess.run(["tar", *how, "-Scf", "a.tar", "x.bmp", "y.jpg", "z.bmp"], check=True)
    if Path("a.tar").stat().st_size > 600_000:
        pytest.skip("this file system stores no holes")
    seen = read_all("a.tar")
    assert list(seen) == ["a.tar/x.bmp", "a.tar/y.jpg", "a.tar/z.bmp"]
    assert same(seen["a.tar/x.bmp"], bytes(holed))
    assert same(seen["a.tar/z.bmp"], bytes(holed))
    assert same(seen["a.tar/y.jpg"], CHINA)


def test_a_sparse_member_may_not_promise_any_size() -> None:
    with Path("x.bmp").open("wb") as file:
        file.truncate(1 << 31)
    subprocess.run(["tar", "--format=gnu", "-Scf", "a.tar", "x.bmp"], check=True)
    assert "wanted at most 1073741824" in str(read_all("a.tar")["a.tar/x.bmp"])


def test_a_negative_size_does_not_lead_in_circles() -> None:
    write("a.tar", ("x.jpg", COFFEE, FILE), ("y.jpg", CHINA, FILE))
    content = bytearray(Path("a.tar").read_bytes())
    with tarfile.open("a.tar") as archive:
        at = archive.getmembers()[1].offset
    header = content[at : at + 512]
    header[124:136] = b"\xff" * 10 + (-1024).to_bytes(2, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[at : at + 512] = header
    Path("a.tar").write_bytes(content)
    seen = read_all("a.tar")
    assert list(seen) == ["a.tar/x.jpg", "a.tar#rest"]
    assert "damaged header" in str(seen["a.tar#rest"])
