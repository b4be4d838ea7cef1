"""`python -m dinov3_ref.data.toy FOLDER`: write the toy data set (`sets.py`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dinov3_ref.data.toy.report import run_writer
from dinov3_ref.data.toy.sets import write_toy


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sets; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dinov3_ref.data.toy",
        description="Write a small, seeded data set of real images for a first training run.",
    )
    parser.add_argument("out", type=Path, help="new folder to write")
    parser.add_argument(
        "--images", "--pictures", type=int, default=4000, help="images in the pool (default: %(default)s)"
    )
    parser.add_argument("--side", type=int, default=128, help="image side in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    options = parser.parse_args(arguments)
    return run_writer(
        lambda: write_toy(options.out, images=options.images, side=options.side, seed=options.seed),
        options.out,
    )


if __name__ == "__main__":
    sys.exit(main())
