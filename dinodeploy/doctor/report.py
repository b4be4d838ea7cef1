"""A Diagnosis as text."""

from __future__ import annotations

from collections.abc import Iterator

from dinodeploy.doctor.examine import Diagnosis
from dinodeploy.doctor.packages import Installed
from dinodeploy.doctor.system import System

_GIB = 2**30


def report_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Machine, packages, devices and findings, as `dinodeploy doctor` prints them."""
    yield from _system(diagnosis.system)
    yield "packages"
    for name, found in diagnosis.packages.items():
        yield f"  {name:14} {_installed(found)}"
    if diagnosis.bundle is not None:
        yield f"bundle {diagnosis.bundle.root}"
        for check in diagnosis.devices:
            if check.runs:
                judged = "judged" if check.judged else "not judged yet"
                yield f"  {check.device:14} {check.engine} by {check.runtime}, {judged}"
            else:
                yield f"  {check.device:14} no: {check.reasons[0]}"
    yield "findings" if diagnosis.findings else "findings: none"
    for finding in diagnosis.findings:
        yield f"  {finding.level}: {finding.what}" + (f" ({finding.link})" if finding.link else "")
        yield f"    fix: {finding.fix}"


def _system(system: System) -> Iterator[str]:
    features = "unknown" if system.features is None else ", ".join(system.features) or "none"
    yield "machine"
    yield f"  {'system':14} {system.system} {system.architecture}, Python {system.python}"
    yield f"  {'CPU':14} {system.cpu}; {features}"
    yield f"  {'cores':14} {system.cores}, this process may use {system.cores_allowed:g}"
    if system.memory is not None and system.memory_allowed is not None:
        allowed = f"{system.memory_allowed / _GIB:.1f}"
        yield f"  {'memory':14} {system.memory / _GIB:.1f} GiB, this process may use {allowed} GiB"
    yield f"  {'GPU':14} {system.gpu.device if system.gpu else f'none: {system.no_gpu}'}"
    if system.jetson_linux:
        yield f"  {'Jetson':14} JetPack {system.jetpack or 'unknown'}, Jetson Linux {system.jetson_linux}"


def _installed(found: Installed) -> str:
    if found.version is None:
        return "not installed"
    providers = f" ({', '.join(found.providers)})" if found.providers else ""
    return f"{found.version}{providers}" + (f", cannot be loaded: {found.broken}" if found.broken else "")
