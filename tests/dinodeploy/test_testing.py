"""`assert_parity` for users' tests: quiet on a right engine, a readable AssertionError on a wrong one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.testing import SHOWN, assert_parity
from tests.support.faults import FAULTS, plant, reseal


def test_a_right_engine_passes(tiny_bundle: Path) -> None:
    assert_parity(tiny_bundle, threads=1)
    assert_parity(str(tiny_bundle / "model.onnx"))


def test_a_wrong_engine_fails_with_the_measurements(own_bundle: Path) -> None:
    plant(own_bundle / "model.cpu.onnx", FAULTS["the block skipped"], "blocks.1", np.random.default_rng(0))
    reseal(own_bundle)
    with pytest.raises(AssertionError) as failure:
        assert_parity(own_bundle)
    lines = str(failure.value).splitlines()
    assert lines[0].startswith(f"{own_bundle / 'model.cpu.onnx'} is not the model (fp32, onnxruntime ")
    assert lines[1].split() == [
        "own_size/cls",
        "relative_frobenius",
        "is",
        lines[1].split()[3],
        "limit",
        "1e-05",
    ]
    assert len(lines) == 1 + SHOWN + 2
    assert lines[-1].endswith("measurements failed")
    assert max(map(len, lines[1:])) < 100


def test_what_is_no_bundle_is_another_error(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no such bundle"):
        assert_parity(tmp_path / "nothing")
