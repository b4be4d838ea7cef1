"""Run a program in its own process: seconds from start to end, and peak memory."""

from __future__ import annotations

import subprocess
import sys
import time

# Both print their peak memory on the last line of stdout. The time includes the end of the process.
_DINODEPLOY = """
import sys
from dinodeploy.cli.app import main
sys.argv = ["dinodeploy", *sys.argv[1:]]
try:
    main()
finally:
    from dinodeploy.bench.probe import peak_mib
    print(peak_mib())
"""

# The usual way without dinodeploy: transformers' model and torch's exporter, dynamic shapes, no parity check.
_PLAIN_EXPORT = """
import sys
from dinov3_ref.torchvision_shim import import_torchvision
import_torchvision()
import torch, transformers
folder, out = sys.argv[1:]
model = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
sizes = {0: torch.export.Dim("batch"), 2: 16 * torch.export.Dim("rows"), 3: 16 * torch.export.Dim("columns")}
torch.onnx.export(
    model, (torch.randn(2, 3, 224, 320),), out, dynamo=True, external_data=True, verbose=False,
    input_names=["pixel_values"], dynamic_shapes={"pixel_values": sizes},
)
from dinodeploy.bench.probe import peak_mib
print(peak_mib())
"""


def run_dinodeploy(arguments: list[str]) -> tuple[float, float | None]:
    """Seconds and peak MiB (None where the system does not report it). Raises CalledProcessError."""
    return _run(_DINODEPLOY, arguments)


def run_plain_export(checkpoint: str, out: str) -> tuple[float, float | None]:
    """The same for `torch.onnx.export` on the directory of a checkpoint in transformers' layout."""
    return _run(_PLAIN_EXPORT, [checkpoint, out])


def _run(program: str, arguments: list[str]) -> tuple[float, float | None]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - started
    peak = done.stdout.splitlines()[-1]
    return seconds, None if peak == "None" else float(peak)
