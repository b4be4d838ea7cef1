"""`dinodeploy doctor`: what this machine has, whether a bundle runs on it, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dinodeploy.cli.output import print_json
from dinodeploy.doctor import Diagnosis, examine
from dinodeploy.doctor.packages import Installed
from dinodeploy.doctor.system import System

CANNOT = 4
_GIB = 2**30


def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle: will it run here?")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Say what this machine has, what is bad about it, and the command that mends it: exit 0 or 4."""
    diagnosis = examine(bundle)
    if as_json:
        print_json(diagnosis.as_json())
    else:
        for line in _lines(diagnosis):
            print(line)
    if not diagnosis.fine:
        raise typer.Exit(CANNOT)


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield from _system(diagnosis.system)
    yield "packages"
    for name, found in diagnosis.packages.items():
        yield f"  {name:14} {_installed(found)}"
    if diagnosis.bundle is not None:
        yield f"bundle {diagnosis.bundle.root}"
        for prospect in diagnosis.prospects:
            if prospect.runs:
                judged = "judged" if prospect.judged else "not judged yet"
                yield f"  {prospect.device:14} {prospect.engine} by {prospect.runtime}, {judged}"
            else:
                yield f"  {prospect.device:14} no: {prospect.reasons[0]}"
    yield "findings" if diagnosis.findings else "findings: none"
    for finding in diagnosis.findings:
        yield f"  {finding.level}: {finding.what}" + (f" ({finding.link})" if finding.link else "")
        yield f"    mend: {finding.mend}"


def _system(system: System) -> Iterator[str]:
    features = "not told by the system" if system.features is None else ", ".join(system.features) or "none"
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
    return f"{found.version}{providers}" + (f", does not load: {found.broken}" if found.broken else "")
