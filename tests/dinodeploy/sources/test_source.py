"""Options of sources."""

from __future__ import annotations

from typing import Any

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.sources import SourceOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every: got 0, wanted a whole number of frames"),
        ({"every": 1.5}, "every: got 1.5"),
        ({"timeout": 0}, "timeout: got 0, wanted a positive number"),
        ({"timeout": float("inf")}, "timeout: got inf"),
        ({"column": ""}, "column: got ''"),
        ({"id_column": 3}, "id column: got 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        SourceOptions(**options)
    assert message in str(caught.value)
