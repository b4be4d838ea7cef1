"""Several loaders taken in turns by chance: multi-resolution training (docs/spec.md 4.1, 4.14)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dinov3_ref.data.loaders import Batch, ResumableLoader
from dinov3_ref.errors import ConfigError

SEED = 65537  # the official one


class CombinedDataLoader:
    """Each step takes a batch from one of `loaders`, chosen with probabilities proportional to `ratios`.

    The choice depends on the step alone, so all ranks make the same. Raises `ConfigError` for ratios that
    are no probabilities, or not one a loader.
    """

    def __init__(self, loaders: Sequence[ResumableLoader], ratios: Sequence[float], seed: int = SEED) -> None:
        if len(loaders) != len(ratios) or min(ratios, default=-1) < 0 or sum(ratios) <= 0:
            raise ConfigError(
                f"{len(loaders)} loaders with ratios {list(ratios)}; wanted one ratio each, none below 0"
            )
        self.loaders = list(loaders)
        self.cumulative = np.cumsum(ratios) / sum(ratios)
        self.cumulative[-1] = 1.0  # whatever the rounding
        self.seed = seed
        self.steps = 0

    @property
    def skipped(self) -> int:
        """Broken pictures stepped over so far, by this rank."""
        return sum(loader.skipped for loader in self.loaders)

    def state_dict(self) -> dict[str, Any]:
        """{"steps", "loaders": state of each}."""
        return {"steps": self.steps, "loaders": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises `ConfigError` if the state is of another number of loaders."""
        if len(state["loaders"]) != len(self.loaders):
            raise ConfigError(
                f"the state is of {len(state['loaders'])} loaders, this run has {len(self.loaders)}; "
                "resume with the same crop sizes"
            )
        self.steps = state["steps"]
        for loader, own in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(own)

    def __iter__(self) -> Iterator[Batch]:
        iterators = [iter(loader) for loader in self.loaders]
        rng = np.random.default_rng(self.seed)
        rng.random(self.steps)  # as many draws as there were steps
        while True:
            chosen = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
            try:
                batch = next(iterators[chosen])
            except StopIteration:
                return
            self.steps += 1
            yield batch
