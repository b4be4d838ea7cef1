"""Examine the machine, its packages and optionally a bundle, and list the problems."""

from __future__ import annotations

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
            "bundle": str(self.bundle.root) if self.bundle else None,
            "devices": [{**asdict(check), "runs": check.runs} for check in self.devices],
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(path: Path | None = None, *, root: Path = Path("/")) -> Diagnosis:
    """Examine this machine and the bundle at `path`. `root`: the folder of the system files.

    Raises MisuseError or BundleError if `path` is not a bundle.
    """
    bundle, file = locate(path) if path is not None else (None, None)
    system, packages = find_system(root), find_packages()
    devices = check_devices(bundle, file) if bundle is not None else ()
    findings = find_findings(Examined(system, packages, onnx_runtimes(), bundle, devices, file))
    return Diagnosis(system, packages, bundle, devices, findings)
