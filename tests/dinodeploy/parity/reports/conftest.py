"""Reports of a right engine and of a broken one, with everything that one can ask for in them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.parity.bisect import Bisection
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.compare import CRITERIA, Comparison, Finding
from dinodeploy.parity.reports import Report
from tests.support.faults import FAULTS, plant, reseal


def make_report(root: Path, cosine: float) -> Report:
    from exporters.bisect import bisect_bundle

    engine, receipt, verdict = check_bundle(root)
    bisection: Bisection = bisect_bundle(engine)
    findings = tuple(
        Finding(row.metric, cosine, row.at_least, cosine >= row.at_least, row.reason) for row in CRITERIA
    )
    reindex = not all(finding.passed for finding in findings)
    comparison = Comparison(str(root), "other", 10, 240, (), findings, "a.jpg", "", reindex)
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    return Report(engine, receipt, verdict, bisection, comparison, started, 1.5)


@pytest.fixture(scope="session")
def passing(tiny_bundle: Path) -> Report:
    return make_report(tiny_bundle, 0.9999)


@pytest.fixture(scope="session")
def broken_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_bundle` with a linear layer of block 1 scaled."""
    root = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("broken") / "bundle"))
    plant(root / "model.cpu.onnx", FAULTS["a linear's weight scaled"], "blocks.1", np.random.default_rng(0))
    reseal(root)
    return root


@pytest.fixture(scope="session")
def failing(broken_bundle: Path) -> Report:
    return make_report(broken_bundle, 0.5)


@pytest.fixture
def not_finite(failing: Report, tmp_path: Path) -> Report:
    """A NaN in a weight of block 2."""
    root = Path(shutil.copytree(failing.bundle.root, tmp_path / "nan"))
    plant(root / "model.cpu.onnx", FAULTS["one NaN in a weight"], "blocks.2", np.random.default_rng(0))
    reseal(root)
    return replace(make_report(root, float("nan")), comparison=None)
