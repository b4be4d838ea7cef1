"""What a user may say about where pictures come from, beyond the paths."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dinodeploy.errors import MisuseError


@dataclass(frozen=True)
class SourceOptions:
    """Raises MisuseError for values that make no sense. What an input has no use for, it ignores."""

    column: str | None = None  # of a table: paths or pictures; found by name if None
    id_column: str | None = None  # of a table: ids; if None, paths or row numbers
    every: int = 1  # of a video: one frame of so many
    timeout: float = 60.0  # of one answer from far away, repeats included; seconds
    recursive: bool = True  # of a folder: its sub-folders too

    def __post_init__(self) -> None:
        for name, value in (("column", self.column), ("id column", self.id_column)):
            if value is not None and not (isinstance(value, str) and value):
                raise MisuseError(f"{name}: got {value!r}, wanted the name of a column")
        if type(self.every) is not int or self.every < 1:
            raise MisuseError(f"every: got {self.every!r}, wanted a whole number of frames, at least 1")
        if not isinstance(self.timeout, (int, float)) or not 0 < self.timeout < math.inf:
            raise MisuseError(f"timeout: got {self.timeout!r}, wanted a positive number of seconds")
