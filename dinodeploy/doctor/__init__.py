"""`dinodeploy doctor`: what this machine has, what is wrong with it, and the command that mends it.

system.py     operating system, CPU, memory, limits of the container, GPU, JetPack
packages.py   which runtimes are installed, in which version, with which providers
prospects.py  a bundle on each device: opened as `embed` opens it, or why not
findings.py   what of all that is bad, one rule a function
examine.py    all of it, as one Diagnosis
"""

from __future__ import annotations

from dinodeploy.doctor.examine import Diagnosis, examine

__all__ = ["Diagnosis", "examine"]
