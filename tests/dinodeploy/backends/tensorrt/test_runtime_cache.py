"""Kernels of TensorRT-RTX on disk: read again, and never a reason to fail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.backends import open_backend
from tests.dinodeploy.backends.fake_tensorrt import FakeTensorRT
from tests.dinodeploy.backends.gpu_machine import Plan, add_plan, no_gpu, pretend_gpu, pretend_tensorrt

X = np.zeros((1, 3, 48, 80), np.float32)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRT]:
    with no_gpu(monkeypatch, tmp_path):
        pretend_gpu(monkeypatch, tmp_path)
        yield pretend_tensorrt(monkeypatch, "rtx")


def run(plan: Plan, module: FakeTensorRT) -> None:
    backend = open_backend(module.__name__, plan.path, build=plan.facts)
    backend.run(X)
    backend.close()


def caches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.cache"))


def test_kernels_are_kept_and_read_again(own_bundle: Path, rtx: FakeTensorRT, tmp_path: Path) -> None:
    plan = add_plan(own_bundle, rtx)
    run(plan, rtx)
    (file,) = caches(tmp_path)
    content = file.read_bytes()
    assert hashlib.sha256(content[32:]).digest() == content[:32]
    assert rtx.called("deserialize") == []
    written = file.stat().st_mtime_ns, file.stat().st_ino
    run(plan, rtx)
    assert rtx.called("deserialize") == [(content[32:],)]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == written, "nothing new, nothing written"
    assert len(rtx.called("set_runtime_cache")) == 4, "both streams of both"


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "empty"])
def test_a_damaged_cache_is_written_again(
    damage: str, own_bundle: Path, rtx: FakeTensorRT, tmp_path: Path
) -> None:
    plan = add_plan(own_bundle, rtx)
    run(plan, rtx)
    (file,) = caches(tmp_path)
    whole = file.read_bytes()
    foreign = b"kernels 1.8 gemm"
    damaged = {
        "cut": whole[:-1],
        "changed": whole[:-1] + b"!",
        "foreign": hashlib.sha256(foreign).digest() + foreign,
        "empty": b"",
    }
    file.write_bytes(damaged[damage])
    run(plan, rtx)
    assert rtx.called("deserialize") == ([(foreign,)] if damage == "foreign" else [])
    assert file.read_bytes() == whole


def test_a_cache_per_plan_and_per_build(own_bundle: Path, rtx: FakeTensorRT, tmp_path: Path) -> None:
    run(add_plan(own_bundle, rtx), rtx)
    run(add_plan(own_bundle, rtx, "two.plan"), rtx)
    run(add_plan(own_bundle, rtx, optimization_level=5), rtx)
    assert len(caches(tmp_path)) == 3


def test_a_cache_that_cannot_be_written(own_bundle: Path, rtx: FakeTensorRT, tmp_path: Path) -> None:
    (tmp_path / "cache" / "dinodeploy").mkdir(parents=True)
    (tmp_path / "cache" / "dinodeploy" / "tensorrt_rtx").write_text("a file where the folder should be")
    run(add_plan(own_bundle, rtx), rtx)
    assert caches(tmp_path) == []


def test_tensorrt_has_no_such_cache(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch, rtx: FakeTensorRT, tmp_path: Path
) -> None:
    module = pretend_tensorrt(monkeypatch, "11.4")
    run(add_plan(own_bundle, module), module)
    assert caches(tmp_path) == []
