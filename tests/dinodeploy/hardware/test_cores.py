"""How many cores are ours: hardware threads of one core count once, affinity and quotas count too.

Quotas in all their spellings: doctor/test_system.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinodeploy.hardware import cores as processor
from dinodeploy.hardware.cores import cores, hardware_threads, restricted


def write_threads(root: Path, siblings: list[str]) -> None:
    """A machine whose thread `i` is of the core that has the threads `siblings[i]`."""
    for thread, text in enumerate(siblings):
        topology = root / f"sys/devices/system/cpu/cpu{thread}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n")


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two cores of two threads each."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(processor, "affinity", lambda: {0, 1, 2, 3})
    write_threads(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    return tmp_path


def test_threads_of_one_core_are_one(four_threads: Path) -> None:
    assert (cores(four_threads), hardware_threads(four_threads), restricted(four_threads)) == (2, 4, False)


def test_a_system_that_tells_none_apart(four_threads: Path) -> None:
    assert cores(four_threads / "nothing") == 4


def test_affinity_counts(four_threads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ours, wanted in (({0, 2}, 1), ({0, 1}, 2), ({3}, 1)):
        monkeypatch.setattr(processor, "affinity", lambda ours=ours: ours)
        assert cores(four_threads) == wanted
        assert restricted(four_threads)


@pytest.mark.parametrize(("quota", "wanted"), [("50000", 1), ("150000", 2), ("390000", 2), ("max", 2)])
def test_a_quota_counts(four_threads: Path, quota: str, wanted: int) -> None:
    for name, text in (("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", f"{quota} 100000\n")):
        path = four_threads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cores(four_threads) == wanted
    assert restricted(four_threads) is (quota != "max")


def test_this_machine() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert 0 < hardware_threads() <= (os.cpu_count() or 1)
