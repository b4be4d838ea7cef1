"""The camera loop: it keeps up by dropping frames, and needs no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_old_frames_are_dropped_and_none_queue_up(tiny_bundle: Path) -> None:
    example = ROOT / "examples" / "06_embed_in_an_app.py"
    program = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, example, tiny_bundle, "--seconds", "1.5", "--fps", "400"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    found = re.search(r"(\d+) frames embedded, (\d+) dropped, oldest (\d+) ms", ran.stdout)
    assert found, ran.stdout
    embedded, dropped, oldest = map(int, found.groups())
    assert embedded >= 2
    assert dropped > 0, "400 frames a second are more than it can embed"
    assert oldest < 1500, "no frame waited behind others"
