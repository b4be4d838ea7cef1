"""Predict in child processes that are killed at their k-th change of the file system; then let one finish.

    python -m tests.support.processes.kill_predictions IMAGES BUNDLE FOLDER EVERY

Writes FOLDER/whole without a kill, then FOLDER/cut, whose processes are killed at changes 1, 1 + EVERY, …
until one finishes. Prints how many were killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import dinodeploy.tasks.predict as module
from dinodeploy.arrays import FloatArray
from dinodeploy.tasks.prediction import Prediction, Region

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def find(outputs: Mapping[str, FloatArray], size: tuple[int, int]) -> Prediction:
    """Where the patch map [h,w,D] is large: one object."""
    patches = outputs["patch"][..., 0]
    ids = np.asarray(Image.fromarray(patches > np.median(patches)).resize(size)).astype(np.int64)
    return Prediction("instance", {}, ids, (Region(0, "thing", 0.5, id=1),))


def predict(images: str, bundle: Path, out: Path, kill_at: int) -> None:
    done = 0

    def count(event: str, arguments: Any) -> None:
        nonlocal done
        if event in CHANGES and str(out.parent) in str(arguments):
            done += 1
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    module.SHARD_BATCHES = 1
    options = module.RunOptions(out, "coco", html=out / "page.html", batch=2)
    module.predict_images(
        (images,), bundle, options, lambda *_: module.Predictor("instance", ("patch",), ("thing",), find)
    )


def in_child(*arguments: Any) -> bool:
    """Whether a process that predicts has finished."""
    child = os.fork()
    if child == 0:
        try:
            predict(*arguments)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "an error"
    return not os.WIFSIGNALED(status)


def main(images: str, bundle: str, folder: str, every: str) -> None:
    root = Path(folder)
    assert in_child(images, Path(bundle), root / "whole", 0)
    killed = 0
    while not in_child(images, Path(bundle), root / "cut", 1 + killed * int(every)):
        killed += 1
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
