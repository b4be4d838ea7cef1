"""The name of a CPU, as receipts use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy import machine


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    machine.cpu_name.cache_clear()
    yield
    machine.cpu_name.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "wanted"),
    [
        ("model name\t: AMD EPYC 9654\nflags\t\t: fpu avx2 avx512f sse\n", "AMD EPYC 9654 [avx2 avx512f]"),
        ("processor\t: 0\nFeatures\t: fp asimddp i8mm\n", "[asimddp i8mm]"),
    ],
)
def test_kernel_choosing_flags_are_part_of_the_name(
    cpuinfo: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert machine.cpu_name().endswith(wanted)


def test_a_machine_without_cpuinfo_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "nothing")
    assert machine.cpu_name()
