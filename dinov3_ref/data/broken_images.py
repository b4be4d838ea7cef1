"""Count images that could not be read; too many are an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dinov3_ref.errors import DataError

MAX_MESSAGES = 100  # kept for a report


@dataclass
class BrokenImages:
    """Number of samples drawn and of broken images skipped. An image that is drawn twice counts twice.

    Up to `grace` + `max_fraction` · drawn broken images are tolerated.
    """

    max_fraction: float = 0.01
    grace: int = 10
    drawn: int = 0
    skipped: int = 0
    messages: dict[str, None] = field(default_factory=dict)  # an ordered set

    def record(self, drawn: int, broken: Sequence[str]) -> None:
        """Add a batch. Raises `DataError` if there are too many broken images."""
        self.drawn += drawn
        self.skipped += len(broken)
        for message in broken[: MAX_MESSAGES - len(self.messages)]:
            self.messages[message] = None
        if self.skipped > self.grace + self.max_fraction * self.drawn:
            raise DataError(
                f"{self.skipped} images of {self.drawn} samples could not be read, more than "
                f"{self.max_fraction:.1%} plus {self.grace}; the last: {broken[-1]}; fix or remove them, or "
                "raise max_broken_fraction"
            )
