"""What a user may say about where pictures come from, checked at birth."""

from __future__ import annotations

from dataclasses import dataclass

from dinodeploy.errors import MisuseError


@dataclass(frozen=True)
class SourceOptions:
    """column: of a table, the one with paths or pictures; None: found by name and type.
    id_column: of a table with pictures, the one with their ids; None: found by name, else row numbers.
    every: of a video, each n-th frame. timeout: seconds for one attempt at a URL.

    Raises MisuseError for what means nothing.
    """

    column: str | None = None
    id_column: str | None = None
    every: int = 1
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise MisuseError(f"--every is {self.every}; wanted at least 1, each n-th frame")
        if self.timeout <= 0:
            raise MisuseError(f"the timeout is {self.timeout} s; wanted more than 0")
        for name, value in (("--column", self.column), ("--id-column", self.id_column)):
            if value == "":
                raise MisuseError(f"{name} is empty; wanted the name of a column")
