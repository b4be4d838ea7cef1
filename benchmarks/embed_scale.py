"""`dinodeploy embed` over many images: is memory flat, where does the time go, what does a resume cost.

    .venv/bin/python benchmarks/embed_scale.py                        # 100,000 small synthetic images
    .venv/bin/python benchmarks/embed_scale.py --pictures 1000,10000

Each count is one run of the command in a process of its own, over synthetic JPEGs of 96x72, with a small
random model at 32x32, so that the engine costs little and everything else shows. A resume is the last run
again, killed with -9 half-way and restarted. Writes benchmarks/ledger/embed_scale_<cpu>_<yyyymm>.json.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from shared import export_small, make_parser, new_record, save, start_dinodeploy, synthetic_image

PACKAGES = ("onnxruntime", "numpy", "pillow", "pyarrow")
SIDE = (96, 72)  # width, height
IMAGES_PER_FOLDER = 1000
LOOK_SECONDS = 0.5  # between looks at a process's memory
OPTIONS = ("--imgsz", "32", "--shard-size", "2000", "--json")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--pictures", default="1000,10000,100000", help="counts, smallest first")
    options = parser.parse_args()
    counts = [int(count) for count in options.pictures.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        bundle, pictures = Path(folder) / "bundle", Path(folder) / "pictures"
        export_small(bundle)
        rows = []
        for count in counts:
            make_pictures(pictures, count)
            rows.append(measure(bundle, pictures, Path(folder) / f"out_{count}", count))
            show(rows[-1])
        resumed = measure_resume(bundle, pictures, Path(folder) / "resumed", rows[-1]["seconds"] / 2)
        same = _tree(Path(folder) / "resumed") == _tree(Path(folder) / f"out_{counts[-1]}")
    record = {
        **new_record("embed_scale", PACKAGES),
        "picture": f"JPEG {SIDE[0]}x{SIDE[1]}",
        "runs": rows,
        "resume": {**resumed, "same_bytes": same},
    }
    print(f"killed and resumed: kept {resumed['kept']}, same bytes: {same}")
    print(f"written: {save(record, 'embed_scale')}")


def make_pictures(root: Path, count: int) -> None:
    """Fill `root` up to `count` images, each from its own seed."""
    there = len(list(root.rglob("*.jpg")))
    for folder in range(there // IMAGES_PER_FOLDER, -(-count // IMAGES_PER_FOLDER)):
        (root / f"{folder:03d}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(_make_picture, root), range(there, count)))


def _make_picture(root: Path, index: int) -> None:
    path = root / f"{index // IMAGES_PER_FOLDER:03d}" / f"{index:06d}.jpg"
    synthetic_image(index, SIDE).save(path, quality=85)


def measure(bundle: Path, pictures: Path, out: Path, count: int) -> dict[str, Any]:
    """One whole run: its report, and its memory as it goes."""
    process = _start(bundle, pictures, out)
    started, memory = time.perf_counter(), []
    while process.poll() is None:
        memory.append((round(time.perf_counter() - started, 1), _resident_mib(process.pid)))
        time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - started
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    process.stdout.close()
    assert (process.returncode, report["embedded"]) == (0, count), report
    running = [mib for _, mib in memory if mib]
    late = running[len(running) // 2 :] or running
    return {
        "pictures": count,
        "seconds": round(seconds, 2),
        "images_per_second": report["images_per_second"],
        "batch": report["batch"],
        "stages": report["stages"],
        "peak_mib": max(running, default=0),
        "second_half_mib": [min(late, default=0), max(late, default=0)],
        "memory": memory[:: max(1, len(memory) // 100)],
    }


def measure_resume(bundle: Path, pictures: Path, out: Path, seconds: float) -> dict[str, Any]:
    """Kill a run after so many seconds, and go on."""
    process = _start(bundle, pictures, out)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    again = _start(bundle, pictures, out)
    report = json.loads(again.communicate()[0])
    return {"killed_after": round(seconds, 2), "kept": report["kept"], "seconds": report["seconds"]}


def _start(bundle: Path, pictures: Path, out: Path) -> subprocess.Popen[str]:
    return start_dinodeploy(["embed", str(pictures), "--engine", str(bundle), "--out", str(out), *OPTIONS])


def _resident_mib(pid: int) -> int:
    """Resident memory of a process; 0 once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_info().rss) >> 20
    return 0


def _tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def show(row: dict[str, Any]) -> None:
    stages = ", ".join(f"{name} {stage['share']:.0%}" for name, stage in row["stages"].items())
    low, high = row["second_half_mib"]
    print(
        f"{row['pictures']} pictures: {row['seconds']:.1f} s, {row['images_per_second']:.0f}/s, "
        f"peak {row['peak_mib']} MiB, second half {low} to {high} MiB; waited for {stages}",
        flush=True,
    )


if __name__ == "__main__":
    main()
