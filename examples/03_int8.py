"""Quantise to int8, calibrated on your own images: size, error, and whether an index must be rebuilt.

    python examples/03_int8.py PHOTOS [--out int8] [--weights examples/models/toy_vit] [--imgsz 64]

Use about a hundred images like those the model will see; 32 are enough to start. The export times int8 beside
fp32 on this machine, and notes whether int8 is worth it here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dinodeploy
from dinodeploy.parity.compare import compare
from dinodeploy.parity.measurement import Verdict
from dinodeploy.sources.folders import list_images

TOY = Path(__file__).parent / "models" / "toy_vit"
WEIGHTS = ("model.onnx", "model.onnx.data")  # an older fp32 bundle has all in the first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("int8"), help="a folder for both bundles")
    parser.add_argument("--weights", type=Path, default=TOY)
    parser.add_argument("--imgsz", type=int, default=64)
    parser.add_argument("-k", type=int, default=3, help="neighbours per search")
    options = parser.parse_args()

    for precision in ("fp32", "int8"):
        bundle = dinodeploy.export(
            options.weights,
            options.out / precision,
            precision=precision,
            calibration=options.photos if precision == "int8" else None,
            imgsz=options.imgsz,
            no_engine=True,
            overwrite=True,
            progress=True,
        )
        for note in bundle.notes:
            print(f"note: {note}")
        describe(bundle)

    images = list_images([options.photos])
    comparison = compare(options.out / "fp32", options.out / "int8", images, k=options.k)
    found = {finding.metric: finding.value for finding in comparison.findings}
    print(f"recall@{options.k} {found['recall']:.3f}, smallest cosine {found['cosine_min']:.4f}")
    print(f"an index built with fp32, searched with int8: {comparison.verdict}")


def describe(bundle: dinodeploy.Bundle) -> None:
    """Size of the weights, and the largest errors that the judge measured."""
    files, receipt = bundle.manifest.files, bundle.receipt
    assert receipt is not None  # an export has one
    size = sum(files[name].bytes for name in WEIGHTS if name in files) / 2**20
    worst = Verdict(receipt.recipe, receipt.measurements).worst
    print(
        f"{receipt.recipe}: {size:.2f} MiB, relative error {worst('relative_frobenius'):.1e}, "
        f"smallest cosine {worst('cosine'):.6f}"
    )


if __name__ == "__main__":
    main()
