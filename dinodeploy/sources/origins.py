"""What tells pictures apart where their ids do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dinodeploy.sources import Source


def origins_of(source: Source) -> Iterable[str]:
    """Where its pictures come from as far as the ids do not tell: two sources of equal ids may differ here.

    The paths of pictures whose ids a table gave, and of a table that holds pictures its name and their column
    (`table.parquet: thumbnail`), unless it is the column that is taken anyhow and rows go by their numbers.
    """
    origins: Iterable[str] = getattr(source, "origins", ())
    return origins
