"""What `dinodeploy debug` finds, without a fault and with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.debug.debug_bundle import debug_bundle

pytest.importorskip("polygraphy", reason="needs the extra debug")


def test_without_a_runner_nothing_is_judged(tiny_bundle: Path, tmp_path: Path) -> None:
    found = debug_bundle(tiny_bundle, tmp_path / "out")
    assert (found.runner, found.errors, found.fault) == (None, {}, None)
    assert list(found.lines()) == list(found.material.commands)
    assert found.to_json()["fault"] is None


def test_every_golden_image_is_compared(tiny_bundle: Path, tmp_path: Path) -> None:
    found = debug_bundle(tiny_bundle, tmp_path / "out", runner="onnxruntime")
    assert found.fault is None
    assert set(found.errors) == {"cls", "storage", "patch", "layer_1"}
    assert 0 < max(found.errors.values()) <= found.limit
