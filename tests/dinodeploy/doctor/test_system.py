"""Facts about a machine, read from files as real systems have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinodeploy.doctor.system import find_system
from dinodeploy.hardware import cores as processor
from dinodeploy.hardware import devices as machine
from tests.dinodeploy.backends.gpu_machine import pretend_gpu
from tests.dinodeploy.doctor.conftest import WriteRoot

JETSON = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n"


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(processor, "affinity", lambda: set(range(64)))


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        # the limit of a group above counts too
        (
            {
                "proc/self/cgroup": "0::/system.slice/job.service\n",
                "sys/fs/cgroup/system.slice/cpu.max": "400000 100000",
                "sys/fs/cgroup/system.slice/job.service/cpu.max": "max 100000",
            },
            4,
        ),
        # a container sees its group as the root, under the name that the host gives it
        ({"proc/self/cgroup": "0::/docker/4f5e\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/4f5e\n2:memory:/docker/4f5e\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, 64),
    ],
)
@pytest.mark.usefixtures("cores")
def test_the_quota_of_a_container(files: dict[str, str], allowed: float, write_root: WriteRoot) -> None:
    found = find_system(write_root(files))
    assert (found.cores, found.cores_allowed) == (64, allowed)


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ({"sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 4 << 30),
        ({"sys/fs/cgroup/memory.max": str(9 << 30)}, 4 << 30),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4 << 30),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": str(1 << 29)}, 1 << 29),
    ],
)
def test_the_memory_of_a_container(limit: dict[str, str], allowed: int, write_root: WriteRoot) -> None:
    files = {
        "proc/meminfo": f"MemTotal:    {4 << 20} kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": "7:memory:/\n0::/\n",
        **limit,
    }
    found = find_system(write_root(files))
    assert (found.memory, found.memory_allowed) == (4 << 30, allowed)


def test_a_system_without_any_files(
    write_root: WriteRoot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nothing")
    found = find_system(write_root({}))
    assert (found.memory, found.memory_allowed, found.features, found.jetpack) == (None,) * 4
    assert not found.gpu_on_bus
    assert "no NVIDIA driver" in found.no_gpu


@pytest.mark.parametrize(
    ("architecture", "cpuinfo", "wanted"),
    [
        (
            "x86_64",
            "model name : Xeon\nflags : fpu avx2 avx512f avx512_vnni amx_bf16\n",
            ("AVX2", "AVX-512", "AVX-512 VNNI", "AMX BF16"),
        ),
        ("aarch64", "Features\t: fp asimd asimddp i8mm bf16\n", ("NEON", "dot product", "I8MM", "BF16")),
        ("AMD64", "flags : sse\n", ()),
        ("riscv64", "flags : v\n", ()),
    ],
)
def test_cpu_features_by_their_usual_names(
    architecture: str,
    cpuinfo: str,
    wanted: tuple[str, ...],
    write_root: WriteRoot,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: architecture)
    assert find_system(write_root({})).features == wanted


def test_a_jetson(write_root: WriteRoot) -> None:
    found = find_system(write_root({"etc/nv_tegra_release": JETSON}))
    assert (found.jetson_linux, found.jetpack) == ("36.4.3", "6")


def test_a_gpu_with_and_without_a_driver(
    write_root: WriteRoot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bus = "sys/bus/pci/devices"
    files = {
        f"{bus}/0000:01:00.0/vendor": "0x10de\n",
        f"{bus}/0000:01:00.0/class": "0x030200\n",
        f"{bus}/0000:02:00.0/vendor": "0x8086\n",
        f"{bus}/0000:02:00.0/class": "0x030000\n",
    }
    root = write_root(files)
    found = find_system(root)
    assert (found.gpu, found.gpu_on_bus, found.kernel_driver) == (None, True, False)
    (root / bus / "0000:01:00.0/class").write_text("0x040300\n")  # the sound of a GPU's HDMI port
    assert not find_system(root).gpu_on_bus
    pretend_gpu(monkeypatch, tmp_path)
    assert find_system(root).gpu == machine.Gpu("NVIDIA L4", "8.9", "570.86.15")
