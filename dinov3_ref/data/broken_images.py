"""The account of pictures that could not be read: skipped, counted, and too many are an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dinov3_ref.errors import DataError

REMEMBERED = 100  # messages kept for a report


@dataclass
class BrokenImages:
    """How many of the pictures drawn were broken. One that is drawn twice counts twice.

    Up to `grace` + `max_fraction` of what was drawn is put up with.
    """

    max_fraction: float = 0.01
    grace: int = 10
    drawn: int = 0
    skipped: int = 0
    messages: dict[str, None] = field(default_factory=dict)  # an ordered set: every picture once

    def record(self, drawn: int, broken: Sequence[str]) -> None:
        """Add a batch. Raises `DataError` once there are too many."""
        self.drawn += drawn
        self.skipped += len(broken)
        for message in broken[: REMEMBERED - len(self.messages)]:
            self.messages[message] = None
        if self.skipped > self.grace + self.max_fraction * self.drawn:
            raise DataError(
                f"{self.skipped} pictures of {self.drawn} drawn could not be read, more than "
                f"{self.max_fraction:.1%} and {self.grace}; the last: {broken[-1]}; mend or remove them, or "
                "raise max_broken_fraction"
            )
