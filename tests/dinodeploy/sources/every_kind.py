"""An input of every kind, with two images in it and as little else as possible."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.images.image_files import encoded, write_tar
from tests.support.images.video_files import write_video

IMAGES = {"coffee.jpg": encoded("coffee"), "rocket.jpg": encoded("rocket")}


def write_files(folder: Path) -> list[str]:
    folder.mkdir()
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)
    return [f"{folder}/{name}" for name in IMAGES]


def _files(name: str) -> list[str]:
    return write_files(Path(name))


def _folder(name: str) -> list[str]:
    write_files(Path(name))
    return [name]


def _list(name: str) -> list[str]:
    Path(f"{name}.txt").write_text("\n".join(write_files(Path(name))))
    return [f"{name}.txt"]


def _csv(name: str) -> list[str]:
    Path(f"{name}.csv").write_text("\n".join(["path", *write_files(Path(name))]))
    return [f"{name}.csv"]


def _parquet(name: str) -> list[str]:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pa.table({"image": list(IMAGES.values())}), f"{name}.parquet"
    )
    return [f"{name}.parquet"]


def _arrow(name: str) -> list[str]:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.feather").write_feather(
        pa.table({"image": list(IMAGES.values())}), f"{name}.arrow"
    )
    return [f"{name}.arrow"]


def _dataset(name: str) -> list[str]:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"image": list(IMAGES.values())}).save_to_disk(name)
    return [name]


def _tar(name: str) -> list[str]:
    write_tar(Path(f"{name}.tar"), IMAGES)
    return [f"{name}.tar"]


def _packed_tar(name: str) -> list[str]:
    write_tar(Path(f"{name}.tar"), IMAGES)
    Path(f"{name}.tgz").write_bytes(gzip.compress(Path(f"{name}.tar").read_bytes()))
    return [f"{name}.tgz"]


def _zip(name: str) -> list[str]:
    with zipfile.ZipFile(f"{name}.zip", "w") as archive:
        for member, data in IMAGES.items():
            archive.writestr(member, data)
    return [f"{name}.zip"]


def _video(name: str) -> list[str]:
    pytest.importorskip("av")
    write_video(Path(f"{name}.mp4"), 2)
    return [f"{name}.mp4"]


KINDS: dict[str, Callable[[str], list[str]]] = {  # name of the input -> what to give to `open_source`
    "files": _files,
    "folder": _folder,
    "list": _list,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
    "dataset": _dataset,
    "tar": _tar,
    "tgz": _packed_tar,
    "zip": _zip,
    "video": _video,
}
