"""The Triton client against a fake gRPC server (tests/support/processes/fake_triton_server.py)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.images.image_files import encoded

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not importlib.util.find_spec("tritonclient"), reason="needs the [triton] extra")
def test_the_client_asks_as_the_repository_wants_it(tiny_bundle: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jpg" for name in ("chelsea", "rocket")]
    for path in paths:
        path.write_bytes(encoded(path.stem))
    command = [
        sys.executable,
        "-m",
        "tests.support.processes.fake_triton_server",
        str(tiny_bundle),
        *map(str, paths),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    *said, asked = ran.stdout.splitlines()
    assert "chelsea.jpg: cls [128], norm" in said[0]
    assert said[-1].endswith("0.00e+00")
    assert json.loads(asked) == ["tiny", "image", "BYTES", [2, 1]]
