"""Examine the machine, its packages and optionally a bundle, list the problems, and print all that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import Bundle, locate
from dinodeploy.doctor.device_checks import DeviceCheck, check_devices
from dinodeploy.doctor.findings import Examined, Finding, find_findings
from dinodeploy.doctor.packages import Installed, find_packages, onnx_runtimes
from dinodeploy.doctor.system import System, find_system


@dataclass(frozen=True)
class Diagnosis:
    """The result of `dinodeploy doctor`."""

    system: System
    packages: dict[str, Installed]
    bundle: Bundle | None
    devices: tuple[DeviceCheck, ...]  # of the bundle, one per device
    findings: tuple[Finding, ...]  # errors first

    @property
    def fine(self) -> bool:
        """Whether the bundle, or without a bundle any engine, can run here."""
        return all(finding.level != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "fine": self.fine,
            "system": asdict(self.system),
            "packages": {name: asdict(found) for name, found in self.packages.items()},
            "bundle": self.bundle.named if self.bundle else None,
            "devices": [{**asdict(check), "runs": check.runs} for check in self.devices],
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(
    path: Path | None = None, *, root: Path = Path("/"), require_signature: Path | None = None
) -> Diagnosis:
    """Examine this machine and the bundle at `path`. `root`: the folder of the system files.

    Raises as `locate`.
    """
    bundle, file = locate(path, require_signature=require_signature) if path is not None else (None, None)
    system, packages = find_system(root), find_packages()
    devices = check_devices(bundle, file) if bundle is not None else ()
    findings = find_findings(Examined(system, packages, onnx_runtimes(), bundle, devices, file))
    return Diagnosis(system, packages, bundle, devices, findings)


def report_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Machine, packages, devices and findings, as `dinodeploy doctor` prints them."""
    yield from _system(diagnosis.system)
    yield "packages"
    for name, found in diagnosis.packages.items():
        yield f"  {name:14} {_installed(found)}"
    if diagnosis.bundle is not None:
        yield f"bundle {diagnosis.bundle.named}"
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
        allowed = f"{system.memory_allowed / 2**30:.1f}"
        yield f"  {'memory':14} {system.memory / 2**30:.1f} GiB, this process may use {allowed} GiB"
    yield f"  {'GPU':14} {system.gpu.device if system.gpu else f'none: {system.no_gpu}'}"
    if system.jetson_linux:
        yield f"  {'Jetson':14} JetPack {system.jetpack or 'unknown'}, Jetson Linux {system.jetson_linux}"


def _installed(found: Installed) -> str:
    if found.version is None:
        return "not installed"
    providers = f" ({', '.join(found.providers)})" if found.providers else ""
    return f"{found.version}{providers}" + (f", cannot be loaded: {found.broken}" if found.broken else "")
