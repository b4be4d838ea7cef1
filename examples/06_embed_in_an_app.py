"""A camera loop with bounded latency: the newest frame is embedded, older ones are dropped, none queue up.

    python examples/06_embed_in_an_app.py BUNDLE [--seconds 3] [--fps 30]

The camera is simulated (drifting coloured noise), so this runs anywhere; put your own in its place. Needs
only the runtime, no torch.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinodeploy import Embedder

Frame = NDArray[np.uint8]
SIZE = (120, 160)  # height, width of the camera's frames


@dataclass
class Shot:
    frame: Frame
    taken: float  # time.monotonic()


class Latest:
    """Holds one frame: putting a new one drops one that was not taken."""

    def __init__(self) -> None:
        self._shot: Shot | None = None
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, shot: Shot) -> None:
        with self._changed:
            self.dropped += self._shot is not None
            self._shot = shot
            self._changed.notify()

    def take(self, timeout: float) -> Shot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._shot is not None, timeout)
            shot, self._shot = self._shot, None
            return shot


def camera(latest: Latest, fps: float, stop: threading.Event) -> None:
    noise = np.random.default_rng(0)
    frame = noise.integers(0, 256, (*SIZE, 3), np.uint8)
    while not stop.wait(1 / fps):
        frame = np.roll(frame, 4, axis=1)
        latest.put(Shot(frame, time.monotonic()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--fps", type=float, default=30.0)
    options = parser.parse_args()
    latest, stop = Latest(), threading.Event()
    with Embedder.open(options.bundle, outputs=("cls",)) as embedder:
        embedder.warm_up()
        source = threading.Thread(target=camera, args=(latest, options.fps, stop))
        source.start()
        ages, before = [], None
        try:
            until = time.monotonic() + options.seconds
            while time.monotonic() < until:
                if (shot := latest.take(timeout=0.1)) is None:
                    continue
                cls = embedder.encode(shot.frame, normalize=True)
                change = 0.0 if before is None else 1 - float(cls @ before)
                before = cls
                ages.append(time.monotonic() - shot.taken)
                print(f"age {1000 * ages[-1]:.0f} ms, change {change:.4f}")
        finally:
            stop.set()
            source.join()
    print(f"{len(ages)} frames embedded, {latest.dropped} dropped, oldest {1000 * max(ages):.0f} ms")


if __name__ == "__main__":
    main()
