"""Small folders, archives and tables of real photographs, for tests of the datasets and evaluations."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path

from tests.support.images.photographs import photograph

SMALL = (120, 90)  # width, height: off-square, quick to decode
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower")


@cache
def encoded(name: str, size: tuple[int, int] = SMALL, format: str = "JPEG") -> bytes:
    """A photograph, made small, as a file's bytes."""
    buffer = io.BytesIO()
    photograph(name).resize(size).save(buffer, format)
    return buffer.getvalue()


def write_folder(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    """root/<animate|still>/[deep/er/]<name>.jpg."""
    for number, name in enumerate(names):
        folder = root / ("animate" if name in ("astronaut", "chelsea") else "still")
        folder = folder / "deep" / "er" if number % 2 else folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(encoded(name))
    return root


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
