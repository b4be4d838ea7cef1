"""`dinodeploy doctor`: what this machine has, what is wrong with it, and the command that fixes it.

system.py         operating system, CPU, memory, container limits, GPU, JetPack
packages.py       installed runtimes, their versions and providers
device_checks.py  a bundle on each device: opened as `embed` opens it, or why it cannot be
findings.py       problems found in all that, one function per rule
examine.py        the whole examination, as one Diagnosis, and its text
"""

from __future__ import annotations

from dinodeploy.doctor.examine import Diagnosis, examine, report_lines

__all__ = ["Diagnosis", "examine", "report_lines"]
