"""Eight bits, calibrated on your own pictures: size, error, and whether an index may stay.

    python examples/03_int8.py PHOTOS [--out int8] [--weights examples/models/toy_vit] [--imgsz 64]

Some hundred pictures like those that will come are best; 32 are enough to begin with. The export times int8
beside fp32 on this machine, and says whether it is worth it here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOY = Path(__file__).parent / "models" / "toy_vit"
WEIGHTS = ("model.onnx", "model.onnx.data")  # of an fp32 bundle the first holds all
REINDEX = 1  # exit code of `check --against`: judged, and an index would have to be made anew


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("int8"), help="a folder for both bundles")
    parser.add_argument("--weights", type=Path, default=TOY)
    parser.add_argument("--imgsz", type=int, default=64)
    parser.add_argument("-k", type=int, default=3, help="neighbours that a search asks for")
    options = parser.parse_args()

    model = ("--weights", options.weights, "--imgsz", options.imgsz, "--overwrite", "--no-engine")
    narrow = ("--int8", "--calibration", options.photos)
    wide_root, narrow_root = options.out / "fp32", options.out / "int8"
    exported = [
        dinodeploy("export", *model, "--out", wide_root),
        dinodeploy("export", *model, *narrow, "--out", narrow_root),
    ]
    for facts in exported:
        size = sum(facts["files"].get(name, 0) for name in WEIGHTS) / 2**20
        worst = facts["worst"]
        print(
            f"{facts['precision']}: {size:.2f} MiB, relative error {worst['relative_frobenius']:.1e}, "
            f"smallest cosine {worst['cosine']:.6f}"
        )
    against = ("--against", narrow_root, "--images", options.photos, "-k", options.k)
    comparison = dinodeploy("check", wide_root, *against)["against"]
    found = {finding["metric"]: finding["value"] for finding in comparison["findings"]}
    print(f"recall@{options.k} {found['recall']:.3f}, smallest cosine {found['cosine_min']:.4f}")
    print(f"an index built with fp32, searched with int8: {comparison['verdict']}")


def dinodeploy(*arguments: object) -> Any:
    """Run one command as a user would; its JSON. The example stops where one fails."""
    line = [str(argument) for argument in arguments]
    print("$ dinodeploy", *line, flush=True)
    program = [sys.executable, "-m", "dinodeploy.cli.app", *line, "--json"]
    ran = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode not in (0, REINDEX) or not ran.stdout:
        sys.exit(ran.returncode)
    return json.loads(ran.stdout)


if __name__ == "__main__":
    main()
