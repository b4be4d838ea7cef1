"""Export a checkpoint, judge it, and see that the judge is not blind: the same engine, spoilt in three ways.

    python examples/02_export_and_judge.py [DIRECTORY] [--weights examples/models/toy_vit] [--imgsz 64]

`dinodeploy check` holds every output against the fp32 reference's, on photographs that the bundle carries.
Each fault here is one that happens: colours in the wrong order, pixels not normalised, a grid turned over.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dinodeploy import Embedder
from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import GOLDEN_FILE
from dinodeploy.parity.golden import load_golden
from dinodeploy.parity.judge import Outputs, Run, judge_golden

TOY = Path(__file__).parent / "models" / "toy_vit"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, default=Path("judged"))
    parser.add_argument("--weights", type=Path, default=TOY)
    parser.add_argument("--imgsz", type=int, default=64)
    options = parser.parse_args()
    bundle: Path = options.directory

    model = ("--weights", options.weights, "--imgsz", options.imgsz)
    dinodeploy("export", *model, "--out", bundle, "--overwrite")
    dinodeploy("check", bundle, "--report", bundle.with_name("report.html"))

    cases = load_golden(bundle / GOLDEN_FILE)
    with Embedder.open(bundle) as embedder:
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


def dinodeploy(*arguments: object) -> None:
    """Run one command as a user would; the example stops where one fails."""
    line = [str(argument) for argument in arguments]
    print("$ dinodeploy", *line, flush=True)
    code = subprocess.run([sys.executable, "-m", "dinodeploy.cli.app", *line], check=False).returncode
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    main()
