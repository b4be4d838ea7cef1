"""Compressed tar files: read forwards, complete, damaged, hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from dinodeploy.errors import ImageError
from dinodeploy.sources import Source, open_source
from dinodeploy.sources.archives import compressed
from dinodeploy.sources.input_file import LocalFile
from tests.dinodeploy.sources.reading import read_by_threads
from tests.support.images.image_files import write_tar

_NOISE = np.random.default_rng(0)
MEMBERS = {f"{i:03d}.jpg": _NOISE.bytes(300 + 97 * (i % 40)) for i in range(100)}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "CHUNK", 1 << 15)


def _zstd(content: bytes) -> bytes:
    packed: bytes = pytest.importorskip("pyarrow").Codec("zstd").compress(content, asbytes=True)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress,
    ".tgz": lambda content: b"".join(
        gzip.compress(content[i::1][:30_000]) for i in range(0, len(content), 30_000)
    ),
    ".tar.bz2": lambda content: bz2.compress(content, 1),
    ".tbz2": lambda content: bz2.compress(content[:30_000]) + bz2.compress(content[30_000:]),
    ".tar.xz": lzma.compress,
    ".txz": lambda content: lzma.compress(content, check=lzma.CHECK_SHA256),
    ".tar.zst": _zstd,
    ".tar": gzip.compress,  # told by its content
}


def _pack(suffix: str, members: dict[str, bytes] = MEMBERS) -> Path:
    content = write_tar(Path("plain.tar"), members).read_bytes()
    Path("plain.tar").unlink()
    path = Path(f"a{suffix}")
    path.write_bytes(PACKERS[suffix](content))
    return path


def _contents(source: Source) -> list[bytes | str]:
    found: list[bytes | str] = []
    for index in range(len(source.ids)):
        try:
            data = source.image(index)
            assert isinstance(data, bytes)
            found.append(data)
        except ImageError as error:
            found.append(str(error))
    return found


class Counted(LocalFile):
    """Counts how often it is opened: each time the archive is read from its beginning."""

    opened = 0

    def open(self) -> BinaryIO:
        Counted.opened += 1
        return super().open()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    monkeypatch.setattr("dinodeploy.sources.open.LocalFile", Counted)
    Counted.opened = 0
    return Counted


@pytest.mark.parametrize("suffix", PACKERS)
def test_every_compression(suffix: str, opened: type[Counted]) -> None:
    path = _pack(suffix)
    source = open_source([path])
    assert list(source.ids) == [f"a{suffix}/{name}" for name in MEMBERS]
    assert _contents(source) == list(MEMBERS.values())
    assert opened.opened == 3  # its kind, its listing, its images
    status = path.stat()
    assert source.stamp(3) == (len(MEMBERS["003.jpg"]), status.st_mtime_ns)  # type: ignore[attr-defined]
    source.release()  # type: ignore[attr-defined]
    assert source.image(7) == MEMBERS["007.jpg"]
    source.close()


def test_nearly_in_order_is_one_pass_and_any_order_is_right(opened: type[Counted]) -> None:
    source = open_source([_pack(".tar.gz")])
    order = list(range(100))
    for start in range(0, 100, 20):  # as decoding threads ask
        part = order[start : start + 20]
        random.Random(start).shuffle(part)
        order[start : start + 20] = part
    assert [source.image(i) for i in order] == [MEMBERS[f"{i:03d}.jpg"] for i in order]
    assert opened.opened == 3
    assert [source.image(i) for i in reversed(range(100))] == list(reversed(MEMBERS.values()))
    assert len(read_by_threads(source)) == 100  # not images, but read
    source.close()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
@pytest.mark.parametrize("cut", [0.6, 0.999])
def test_the_whole_images_before_damage_are_kept(suffix: str, cut: float) -> None:
    path = _pack(suffix)
    packed = path.read_bytes()
    path.write_bytes(packed[: int(len(packed) * cut)])
    source = open_source([path])
    *found, rest = _contents(source)
    assert list(source.ids)[-1] == f"a{suffix}#rest"
    assert f"lost after {len(found)} images" in str(rest)
    assert found == list(MEMBERS.values())[: len(found)]
    assert len(found) > (
        90 if cut > 0.9 and "z2" not in suffix and "zst" not in suffix else 15
    )  # large blocks


def test_wrong_checksum_is_reported() -> None:
    path = _pack(".tar.gz")
    packed = bytearray(path.read_bytes())
    packed[-8] ^= 1  # of the CRC
    path.write_bytes(packed)
    source = open_source([path])
    assert list(source.ids)[-1] == "a.tar.gz#rest"
    with pytest.raises(ImageError, match="lost after 100 images: CRC check failed"):
        source.image(100)


def test_links_are_read_without_starting_again(opened: type[Counted]) -> None:
    with tarfile.open("links.tar.xz", "w:xz") as archive:
        for i in range(60):
            member = tarfile.TarInfo(f"{i:02d}.jpg")
            member.size = len(MEMBERS["001.jpg"])
            archive.addfile(member, io.BytesIO(MEMBERS["001.jpg"]))
        for i in range(60):
            link = tarfile.TarInfo(f"link{i:02d}.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, f"{i % 3:02d}.jpg"
            archive.addfile(link)
    source = open_source(["links.tar.xz"])
    assert _contents(source) == [MEMBERS["001.jpg"]] * 120
    assert opened.opened == 4  # its kind, its listing, its links, its images
    source.close()


def test_archive_of_zeros_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "FREE_BYTES", 1 << 20)
    path = _pack(".tar.xz", {"a.jpg": b"x" * 100, "b.jpg": bytes(24 << 20), "c.jpg": b"y"})
    source = open_source([path])
    first, rest = _contents(source)
    assert first == b"x" * 100
    assert "unpacks to more than 1000 times its size" in str(rest)


def test_member_of_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_MEMBER_BYTES", 1000)
    source = open_source([_pack(".tar.gz", {"a.jpg": bytes(1001), "b.jpg": b"y"})])
    refused, kept = _contents(source)
    assert "1001 bytes unpacked, wanted at most 1000" in str(refused)
    assert kept == b"y"


def test_archive_that_changes_is_an_image_error() -> None:
    path = _pack(".tar.gz")
    source = open_source([path])
    path.write_bytes(gzip.compress(b"other"))
    assert "the file has changed" in str(_contents(source)[0])
    path.unlink()
    assert "No such file" in str(_contents(source)[0])


def test_unknown_content_is_quarantined() -> None:
    Path("a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(50))
    Path("b.tar.lz4").write_bytes(b"\x04\x22\x4d\x18" + bytes(50))
    assert list(open_source(["a.tar.gz"]).ids) == ["a.tar.gz#rest"]
