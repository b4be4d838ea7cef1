"""Zip files whose end is missing."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from tests.dinodeploy.sources.reading import read_all
from tests.support.images.image_files import NAMES, encoded

MEMBERS = {f"k/{name}.jpg": encoded(name) for name in NAMES}


class Pipe(io.RawIOBase):
    """A stream that cannot seek: zipfile then writes data descriptors."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


def zipped(method: int, *, described: bool = False, zip64: bool = False) -> tuple[bytes, list[int]]:
    """A zip file and the offset of each member, and of the directory."""
    target: Any = Pipe() if described else io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in MEMBERS.items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(data)
        offsets = [member.header_offset for member in archive.infolist()]
        offsets.append(archive.start_dir)
    return bytes(target.content if described else target.getvalue()), offsets


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize(
    ("method", "described"),
    [(zipfile.ZIP_STORED, False), (zipfile.ZIP_DEFLATED, False), (zipfile.ZIP_DEFLATED, True)],
)
def test_whole_members_are_read(method: int, described: bool, zip64: bool) -> None:
    content, offsets = zipped(method, described=described, zip64=zip64)
    for cut, whole in (
        (len(content) - 1, 6),
        (offsets[6] + 5, 6),
        (offsets[5] + 100, 5),
        (offsets[3] + 10, 3),
        (offsets[1], 1),
    ):
        Path("c.zip").write_bytes(content[:cut])
        seen = read_all("c.zip")
        assert list(seen) == [*(f"c.zip/{name}" for name in list(MEMBERS)[:whole]), "c.zip#rest"]
        assert f"lost after {whole} members" in str(seen.pop("c.zip#rest"))
        for data, pixels in zip(MEMBERS.values(), seen.values(), strict=False):
            np.testing.assert_array_equal(pixels, np.asarray(open_image(data)))


def test_stored_members_of_unknown_size_end_the_reading() -> None:
    content, _ = zipped(zipfile.ZIP_STORED, described=True)
    Path("c.zip").write_bytes(content[:-1])
    assert list(read_all("c.zip")) == ["c.zip"]


def test_nothing_whole() -> None:
    content, offsets = zipped(zipfile.ZIP_DEFLATED)
    for part in (content[: offsets[1] - 1], content[:20], b"PK\3\4", b"no zip file"):
        Path("c.zip").write_bytes(part)
        assert "cannot be read as a zip file" in str(read_all("c.zip")["c.zip"])
