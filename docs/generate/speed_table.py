"""The speed tables of docs/speed.md, computed from the ledger. Run as a script, it rewrites the page.

A ratio is how many times as fast dinodeploy is as a peer on one shape: the median over the rounds of one run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "benchmarks" / "ledger"
PAGE = ROOT / "docs" / "speed.md"
BLOCK = re.compile(r"(?<=<!-- speed table: begin -->\n).*(?=<!-- speed table: end -->)", re.DOTALL)
MODELS = {
    "vit_small": "ViT-S",
    "vit_base": "ViT-B",
    "vit_large": "ViT-L",
    "vit_huge_plus": "ViT-H+",
    "convnext_tiny": "ConvNeXt-T",
}
PEERS = {
    "torch": "PyTorch",
    "compile": "torch.compile",
    "transformers": "transformers",
    "timm": "timm",
    "openvino": "OpenVINO",
    "nncf": "OpenVINO + NNCF",
}


def table() -> str:
    """A table as Markdown for each kind of CPU: fp32 records first, then bf16 and int8, a line per shape."""
    kinds: dict[str, list[str]] = {}
    for recipe in ("fp32", "bf16", "int8"):
        for arch, name in MODELS.items():
            for path in sorted(LEDGER.glob(f"cpu_{arch}_{recipe}_*.json")):
                record = json.loads(path.read_text(encoding="utf-8"))
                model = name if recipe == "fp32" else f"{name} {recipe}"
                kinds.setdefault(_kind(record["cpu"]), []).extend(_rows(record, model))
    head = f"| model, batch × size | dinodeploy | {' | '.join(PEERS.values())} |\n{'|---' * 8}|"
    return "\n".join(f"\n### {kind}\n\n{head}\n" + "\n".join(lines) + "\n" for kind, lines in kinds.items())


def _kind(cpu: str) -> str:
    """`AVX-512, VNNI, bf16` or `AVX2`, from the instructions in a record's name of the CPU."""
    names = {"avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "bf16"}
    found = [word for name, word in names.items() if name in cpu.partition("[")[2].rstrip("]").split()]
    return ", ".join(found) or "AVX2"


def _rows(record: dict[str, Any], model: str) -> Iterator[str]:
    shapes = dict.fromkeys((row["batch"], row["height"], row["width"]) for row in record["rows"])
    for shape in shapes:
        found = {
            row["runner"]: row
            for row in record["rows"]
            if (row["batch"], row["height"], row["width"]) == shape
        }
        ratios = [f"{1 / found[peer]['ratio']:.2f}×" if peer in found else "" for peer in PEERS]
        batch, height, width = shape
        size = f"{height}²" if height == width else f"{height}×{width}"
        yield f"| {model}, {batch} × {size} | {found['engine']['median_ms']:.0f} ms | {' | '.join(ratios)} |"


if __name__ == "__main__":
    PAGE.write_text(
        BLOCK.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n"
    )
