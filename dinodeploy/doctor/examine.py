"""The whole examination: machine, packages, a bundle if one is given, and what is bad about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import Bundle, locate
from dinodeploy.doctor.findings import Examined, Finding, find_findings
from dinodeploy.doctor.packages import Installed, find_packages, onnx_runtimes
from dinodeploy.doctor.prospects import Prospect, find_prospects
from dinodeploy.doctor.system import System, find_system


@dataclass(frozen=True)
class Diagnosis:
    """What `dinodeploy doctor` says."""

    system: System
    packages: dict[str, Installed]
    bundle: Bundle | None
    prospects: tuple[Prospect, ...]  # of the bundle, one a device
    findings: tuple[Finding, ...]  # errors first

    @property
    def fine(self) -> bool:
        """Whether nothing keeps the bundle, or without one any engine, from running here."""
        return all(finding.level != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "fine": self.fine,
            "system": asdict(self.system),
            "packages": {name: asdict(found) for name, found in self.packages.items()},
            "bundle": str(self.bundle.root) if self.bundle else None,
            "devices": [{**asdict(prospect), "runs": prospect.runs} for prospect in self.prospects],
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(path: Path | None = None, *, root: Path = Path("/")) -> Diagnosis:
    """Examine this machine, and the bundle at `path` on it; the system's files are those under `root`.

    Raises MisuseError or BundleError for a path that is no bundle.
    """
    bundle, file = locate(path) if path is not None else (None, None)
    system, packages = find_system(root), find_packages()
    prospects = find_prospects(bundle, file) if bundle is not None else ()
    findings = find_findings(Examined(system, packages, onnx_runtimes(), bundle, prospects, file))
    return Diagnosis(system, packages, bundle, prospects, findings)
