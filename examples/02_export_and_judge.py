"""Export a checkpoint, judge it, and check the judge itself: it refuses the same engine with three faults.

    python examples/02_export_and_judge.py [DIRECTORY] [--weights examples/models/toy_vit] [--imgsz 64]

The judge compares every output with the fp32 reference, on photographs inside the bundle (`dinodeploy
check`). The faults are common ones: colours in the wrong order, pixels not normalised, a patch grid upside
down.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

import dinodeploy
from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import GOLDEN_FILE
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.golden import load_golden
from dinodeploy.parity.judge import Outputs, Run, judge_golden
from dinodeploy.parity.reports import Report, write_report

TOY = Path(__file__).parent / "models" / "toy_vit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("judged"))
    parser.add_argument("--weights", type=Path, default=TOY)
    parser.add_argument("--imgsz", type=int, default=64)
    options = parser.parse_args()

    bundle = dinodeploy.export(
        options.weights, options.directory, imgsz=options.imgsz, overwrite=True, progress=True
    )
    started = datetime.now(timezone.utc)
    engine, receipt, verdict = check_bundle(bundle.root)
    seconds = (datetime.now(timezone.utc) - started).total_seconds()
    page = bundle.root.with_name("report.html")
    write_report(Report(engine, receipt, verdict, None, None, started, seconds), page)
    print(f"{engine.path}: {'passed' if verdict.passed else 'failed'}; {page} shows every measurement")

    cases = load_golden(bundle.root / GOLDEN_FILE)
    with dinodeploy.Embedder.open(bundle.root) as embedder:
        for name, fault in FAULTS.items():
            verdict = judge_golden(cases, fault(embedder.run), embedder.manifest)
            print(f"{name}: {'passed' if verdict.passed else 'refused'}")
            for measurement in verdict.failures[:2]:
                print(f"    {measurement.output} of case {measurement.case}: {measurement.sentence}")


def blue_first(run: Run) -> Run:
    """Pixels [B,3,H,W] as OpenCV reads them."""
    return lambda pixels: run(np.ascontiguousarray(pixels[:, ::-1]))


def not_normalised(run: Run) -> Run:
    """Pixels in 0..1, where mean 0.5 and standard deviation 0.25 were wanted."""
    return lambda pixels: run(pixels * 0.25 + 0.5)


def upside_down(run: Run) -> Run:
    """Patch tokens [B,h,w,D] from the last row to the first; CLS is right, and nobody would notice."""

    def spoilt(pixels: FloatArray) -> Outputs:
        outputs = run(pixels)
        return {**outputs, "patch": outputs["patch"][:, ::-1]}

    return spoilt


FAULTS: dict[str, Callable[[Run], Run]] = {
    "as it is": lambda run: run,
    "blue first": blue_first,
    "not normalised": not_normalised,
    "patches upside down": upside_down,
}


if __name__ == "__main__":
    main()
