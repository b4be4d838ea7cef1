"""Usable CPU count of this process: CPU affinity and cgroup quota.

Read from Linux's own files; on other systems every core counts. Sources:
https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), its version 1 (cpu.cfs_quota_us), and
https://docs.kernel.org/admin-guide/cputopology.html (thread_siblings_list).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Physical cores for this process; hardware threads if the system does not distinguish them."""
    physical = len({_siblings(root, thread) for thread in affinity()})
    return max(1, min(physical, math.ceil(hardware_threads(root))))


def hardware_threads(root: Path = _ROOT) -> float:
    """CPU time for this process in hardware threads; a quota may be fractional."""
    return min([len(affinity()), *_quotas(root)])


def restricted(root: Path = _ROOT) -> bool:
    """Whether this process may use only a part of the machine."""
    return hardware_threads(root) < (os.cpu_count() or 1)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups and of their parents, as far as they are visible.

    A container often sees its own group as the root of the mount, not under the host's name for it.
    """
    mount = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            if ".." not in folder.parts and (top / folder).is_dir():
                yield top / folder


def read_text(path: Path) -> str:
    """The file's text; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def affinity() -> set[int]:
    """Numbers of the hardware threads that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(root: Path, thread: int) -> str:
    """A text that is equal for all hardware threads of one core."""
    topology = root / f"sys/devices/system/cpu/cpu{thread}/topology"
    return read_text(topology / "thread_siblings_list") or str(thread)


def _quotas(root: Path) -> Iterator[float]:
    """CPU quotas of this process's groups, in hardware threads."""
    for folder in control_groups(root, "cpu"):
        quota, _, period = read_text(folder / "cpu.max").partition(" ")
        if not quota:  # version 1
            quota = read_text(folder / "cpu.cfs_quota_us")
            period = read_text(folder / "cpu.cfs_period_us")
        if quota.strip().isdigit() and period.strip().isdigit() and int(period):
            yield int(quota) / int(period)
