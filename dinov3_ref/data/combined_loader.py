"""Choose randomly between several loaders: multi-resolution training (docs/spec.md 4.1, 4.14)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dinov3_ref.data.loaders import Batch, ResumableLoader
from dinov3_ref.errors import ConfigError

SEED = 65537  # of the official code


class CombinedDataLoader:
    """Takes each batch from one of `loaders`, chosen with probabilities proportional to `ratios`.

    The choice depends only on the step, so it is the same on all ranks. Raises `ConfigError` for negative
    ratios, and if their number is not that of the loaders.
    """

    def __init__(self, loaders: Sequence[ResumableLoader], ratios: Sequence[float], seed: int = SEED) -> None:
        if len(loaders) != len(ratios) or min(ratios, default=-1) < 0 or sum(ratios) <= 0:
            raise ConfigError(
                f"{len(loaders)} loaders with ratios {list(ratios)}; wanted one ratio each, none below 0"
            )
        self.loaders = list(loaders)
        self.cumulative = np.cumsum(ratios) / sum(ratios)
        self.cumulative[-1] = 1.0  # despite rounding
        self.seed = seed
        self.steps = 0

    @property
    def skipped(self) -> int:
        """Broken images skipped so far by this rank."""
        return sum(loader.skipped for loader in self.loaders)

    def state_dict(self) -> dict[str, Any]:
        """{"steps": steps done, "loaders": state of each loader}."""
        return {"steps": self.steps, "loaders": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there. Raises `ConfigError` if the number of loaders differs."""
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
        rng.random(self.steps)  # skip the draws of earlier steps
        while True:
            chosen = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
            try:
                batch = next(iterators[chosen])
            except StopIteration:
                return
            self.steps += 1
            yield batch
