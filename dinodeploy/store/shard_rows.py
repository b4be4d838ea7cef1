"""The rows of one shard while it is being made: added in any order, kept in the order of the listing.

Shapes: n rows, h, w patch grid, D dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError
from dinodeploy.store.dtypes import SCALE
from dinodeploy.store.formats import Column, stack_rows
from dinodeploy.store.shard_records import Quarantined, Shape

# Outputs become column and folder names beside these.
_RESERVED = ("id", "ids", "size", "width", "height", "img")
_OUTPUT_NAME = re.compile(rf"[a-z][a-z0-9_]*(?<!_grid)(?<!{SCALE})")


@dataclass(frozen=True)
class Row:
    """One picture: its id, original width and height in pixels, and a float32 array for each output."""

    id: str
    size: tuple[int, int]
    values: dict[str, FloatArray]


class ShardRows:
    """What a shard is to hold. `outputs`: names of the columns."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self.outputs = tuple(outputs)
        self.shapes: dict[str, Shape | None] = dict.fromkeys(self.outputs)
        self._rows: dict[int, Row] = {}
        self._quarantined: dict[int, Quarantined] = {}

    def add(self, position: int, id: str, values: Mapping[str, FloatArray], size: tuple[int, int]) -> str:
        """The picture at `position` of the listing. Raises MisuseError for a row unlike those before it.

        Returns why it was not taken, or nothing: nobody could search for a row that is not finite.
        """
        kept = {}
        for output in self.outputs:
            value = np.array(values[output])  # a copy: engines use their output buffers again
            if value.dtype != np.float32:
                raise MisuseError(f"output {output!r} of {id!r}: got {value.dtype}, wanted float32")
            if not np.isfinite(value).all():
                return f"the engine's {output!r} of it is not finite"
            kept[output] = value
        for output, value in kept.items():
            self.shapes[output] = merge_shapes(self.shapes[output], list(value.shape), output, id)
        self._rows[position] = Row(id, size, kept)
        return ""

    def quarantine(self, position: int, id: str, reason: str) -> None:
        """A picture that has no row."""
        self._quarantined[position] = Quarantined(id, reason)

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self._sorted()]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [row.size for row in self._sorted()]

    @property
    def quarantined(self) -> list[Quarantined]:
        return [self._quarantined[position] for position in sorted(self._quarantined)]

    def column(self, output: str) -> Column:
        """One output of every row: [n, ...], or the patches of all where grids differ."""
        return stack_rows([row.values[output] for row in self._sorted()])

    def _sorted(self) -> list[Row]:
        return [self._rows[position] for position in sorted(self._rows)]


def merge_shapes(known: Shape | None, shape: Shape | None, output: str, where: str) -> Shape | None:
    """The shape of all rows so far and of these; only the grid of [h, w, D] may differ.

    Raises MisuseError, which calls the new ones `where`.
    """
    if known is None or shape is None:
        return shape if known is None else known
    is_map = len(known) == len(shape) == 3
    if not (known == shape or (is_map and known[2] == shape[2])):
        raise MisuseError(f"output {output!r} of {where!r}: got shape {shape}, wanted {known}")
    return [side if side == seen else None for side, seen in zip(shape, known, strict=True)]


def check_outputs(outputs: Sequence[str]) -> None:
    """Raise MisuseError for names that cannot be columns."""
    if not outputs or len(set(outputs)) < len(outputs):
        raise MisuseError(f"outputs: got {', '.join(outputs) or 'none'}, wanted at least one, each once")
    for output in outputs:
        if output in _RESERVED or not _OUTPUT_NAME.fullmatch(output):
            raise MisuseError(f"output {output!r} cannot name a column; wanted one like cls, patch, layer_3")
