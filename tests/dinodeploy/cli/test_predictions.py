"""The printed line of each kind of prediction."""

from __future__ import annotations

from typing import Any

import pytest

from dinodeploy.cli.predictions import line_of, print_row


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"classes": [{"class": "cat", "probability": 0.75}]}, "cat 0.750"),
        ({"shares": {"sky": 0.5, "sea": 0.25}}, "sky 50.0%  sea 25.0%"),
        ({"metres": {"nearest": 1.0}}, "nearest 1.00 m"),
        ({"regions": []}, "nothing found"),
        (
            {"regions": [{"class": f"c{n}", "score": n / 10} for n in range(7)]},
            "c6 0.60  c5 0.50  c4 0.40  c3 0.30  c2 0.20  and 2 more",
        ),
    ],
)
def test_lines(row: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of({"id": "a\nb.jpg", **row}) == f"a\\nb.jpg  {line}"
    print_row(as_json=True)({"id": "x", **row})
    assert capsys.readouterr().out == ""
