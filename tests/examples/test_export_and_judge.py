"""The examples that export: judged, spoilt and refused; in 8 bits, with photographs to calibrate on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.images.photographs import PHOTOGRAPHS, photograph
from tests.support.processes.run_example import run_example

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_only_the_unchanged_preprocessing_passes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    out = run_example("02_export_and_judge.py", cwd=tmp_path)
    told = dict(re.findall(r"^([a-z][\w ]+): (passed|refused)$", out, re.MULTILINE))
    assert told == {
        "as it is": "passed",
        "blue first": "refused",
        "not normalised": "refused",
        "patches upside down": "refused",
    }
    after = out.split("patches upside down: refused\n")[1]
    assert after.lstrip().startswith("patch of case "), "CLS is right, so it is not what is named"
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_eight_bits(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in PHOTOGRAPHS:
        photograph(name).resize((180, 120)).save(tmp_path / "photos" / f"{name}.jpg")
    out = run_example("03_int8.py", "photos", cwd=tmp_path)
    rows = re.findall(
        r"^(fp32|int8): ([\d.]+) MiB, relative error (\S+), smallest cosine ([\d.]+)$", out, re.MULTILINE
    )
    (_, wide, exact, _), (_, narrow, rough, cosine) = rows
    assert float(narrow) < float(wide) / 3
    assert float(exact) < 1e-5 < float(rough)
    assert float(cosine) >= 0.98
    recall = re.search(r"^recall@3 ([\d.]+), smallest cosine", out, re.MULTILINE)
    assert recall
    assert out.endswith(f"searched with int8: reindex: {'no' if float(recall[1]) >= 0.95 else 'yes'}\n")
