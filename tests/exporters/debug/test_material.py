"""A bundle's golden cases for Polygraphy, for real with its ONNX Runtime backend."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.bundle.bundle import open_bundle
from exporters.debug.material import write_material

pytest.importorskip("polygraphy", reason="needs the extra debug")
POLYGRAPHY = [sys.executable, "-c", "import sys; from polygraphy.tools._main import main; sys.exit(main())"]


def polygraphy(command: str) -> subprocess.CompletedProcess[str]:
    program, *words = shlex.split(command)
    assert program == "polygraphy"
    return subprocess.run([*POLYGRAPHY, *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_printed_command_passes_and_finds_other_outputs(tiny_bundle: Path, tmp_path: Path) -> None:
    material = write_material(open_bundle(tiny_bundle), tmp_path)
    tensorrt, cpu = material.commands
    assert "--strongly-typed" in tensorrt
    assert "--trt-max-shapes" in tensorrt
    ran = polygraphy(cpu)
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "PASSED" in ran.stdout
    lines = material.outputs.read_text()
    shifted = tmp_path / "shifted.json"
    from polygraphy.comparator import RunResults

    results = RunResults.load(str(material.outputs))
    for iteration in next(iter(results.values())):
        iteration["cls"] = iteration["cls"] + np.float32(0.5)
    results.save(str(shifted))
    ran = polygraphy(cpu.replace(str(material.outputs), str(shifted)))
    assert ran.returncode == 1
    assert lines == material.outputs.read_text()
