"""The same six photographs as a folder, a list, tar shards, Parquet and Arrow tables; two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.images.image_files import NAMES, encoded, write_folder, write_tar

CLASSES = {"astronaut": "animate", "chelsea": "animate"}


def write_list(root: Path, separator: str = "\t") -> Path:
    write_folder(root / "photos")
    lines = []
    for path in sorted((root / "photos").rglob("*.jpg")):
        label = CLASSES.get(path.stem, "still")
        lines.append(f"{path.relative_to(root)}{separator}{label}\n" if separator else f"{path}\n")
    (root / "list.tsv").write_text("".join(lines))
    return root / "list.tsv"


def write_shards(root: Path) -> str:
    for shard, names in enumerate((NAMES[:4], NAMES[4:])):
        members = {}
        for name in names:
            members[f"a/{name}.v1.jpg"] = encoded(name)
            members[f"a/{name}.cls"] = CLASSES.get(name, "still").encode()
        write_tar(root / f"train-{shard:03d}.tar", members | {"notes.json": b"{}"})
    return f"{root}/train-{{000..001}}.tar"


def table_of(names: tuple[str, ...]) -> pa.Table:
    images = [{"bytes": encoded(name), "path": f"{name}.jpg"} for name in names]
    return pa.table({"image": images, "label": [CLASSES.get(name, "still") for name in names]})


def write_parquet(root: Path) -> str:
    for part, names in enumerate((NAMES[:4], NAMES[4:])):
        pq.write_table(table_of(names), root / f"part-{part}.parquet", row_group_size=3)
    return f"{root}/part-*.parquet"


def write_arrow(root: Path) -> str:
    """As Hugging Face's `datasets` writes it: a stream."""
    table = table_of(NAMES)
    with pa.OSFile(str(root / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return f"{root}/data.arrow"


WRITERS: dict[str, Any] = {
    "folder": lambda root: str(write_folder(root)),
    "list": lambda root: str(write_list(root)),
    "tar": write_shards,
    "parquet": write_parquet,
    "arrow": write_arrow,
}
