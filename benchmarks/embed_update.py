"""`dinodeploy embed --update` where few images changed: what does it cost beside a run over all of them?

    .venv/bin/python benchmarks/embed_update.py                           # 100,000 images, ViT-S at 64x64
    .venv/bin/python benchmarks/embed_update.py --arch tiny --imgsz 32    # the engine costs almost nothing

Runs of the command, each a process of its own, over synthetic JPEGs of 96x72 with random weights: over all
images, again with nothing to do (start, listing and comparison), and with `--update` after images were
replaced at random. `tiny` has three blocks of width 128. At 224x224 a full run takes nine times as long as
at 64x64, and the share falls. Writes benchmarks/ledger/embed_update_<arch>_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import json
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from embed_scale import make_pictures
from shared import (
    export_random,
    export_small,
    make_parser,
    new_record,
    save,
    start_dinodeploy,
    synthetic_image,
)

from dinodeploy import load_embeddings

PACKAGES = ("onnxruntime", "numpy", "pillow", "pyarrow")
SIDE = (96, 72)  # width, height
OPTIONS = ("--shard-size", "2000", "--json")
LIMIT = 0.03  # of the full time, beside the listing


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--arch", default="vit_small", help="tiny, or as `dinodeploy export --arch`")
    parser.add_argument("--imgsz", default="64")
    parser.add_argument("--share", type=float, default=0.01, help="of the images that are replaced")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle, images, out = (Path(folder) / name for name in ("bundle", "images", "out"))
        if options.arch == "tiny":
            export_small(bundle)
        else:
            export_random(options.arch, "fp32", bundle)
        size = ("--imgsz", options.imgsz)
        make_pictures(images, options.images)
        first = next(images.rglob("*.jpg"))  # the first use of a bundle judges it on this machine
        measure(bundle, first, Path(folder) / "first", *size)
        full = measure(bundle, images, out, *size)
        again = measure(bundle, images, out, *size)
        changed = replace_some(images, options.images, options.share)
        update = measure(bundle, images, out, *size, "--update")
        assert update["report"]["changed"] == changed, update
        anew = measure(bundle, images, Path(folder) / "anew", *size)
        (ids, rows), (wanted_ids, wanted) = load_embeddings(out), load_embeddings(Path(folder) / "anew")
        same = ids == wanted_ids and bool(np.array_equal(np.asarray(rows), np.asarray(wanted)))
    share = (update["seconds"] - again["seconds"]) / full["seconds"]
    cpu_share = (update["cpu_seconds"] - again["cpu_seconds"]) / full["cpu_seconds"]
    record = {
        **new_record("embed_update", PACKAGES),
        "image": f"JPEG {SIDE[0]}x{SIDE[1]}",
        "arch": options.arch,
        "imgsz": options.imgsz,
        "images": options.images,
        "changed": changed,
        "full": full,
        "nothing_to_do": again,
        "update": update,
        "anew": anew,
        "update_share": round(share, 4),
        "update_share_cpu": round(cpu_share, 4),
        "limit": LIMIT,
        "same_rows": same,
    }
    print(
        f"{options.images} images: {full['seconds']:.1f} s; nothing to do {again['seconds']:.1f} s; "
        f"{changed} changed {update['seconds']:.1f} s, {share:.1%} of the full time beside the listing; "
        f"same rows: {same}"
    )
    print(f"written: {save(record, 'embed_update', options.arch)}")


def measure(bundle: Path, images: Path, out: Path, *more: str) -> dict[str, Any]:
    """One run of the command: wall and CPU time with the start of the process, and its report."""
    command = ["embed", str(images), "--engine", str(bundle), "--out", str(out), *OPTIONS, *more]
    started, used = time.perf_counter(), _cpu_seconds()
    process = start_dinodeploy(command)
    text = process.communicate()[0]
    seconds = time.perf_counter() - started
    assert process.returncode == 0, text
    report = json.loads(text)
    kept = ("embedded", "kept", "changed", "new", "missing", "generation", "seconds", "images_per_second")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(_cpu_seconds() - used, 2),
        "report": {name: report[name] for name in kept},
    }


def _cpu_seconds() -> float:
    """Of all processes that have ended here: user and system time."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def replace_some(images: Path, count: int, share: float) -> int:
    """Replace images at random by others under the same names."""
    chosen = random.Random(0).sample(sorted(images.rglob("*.jpg")), max(1, round(count * share)))
    for number, path in enumerate(chosen):
        synthetic_image(count + number, SIDE).save(path, quality=85)
    return len(chosen)


if __name__ == "__main__":
    main()
