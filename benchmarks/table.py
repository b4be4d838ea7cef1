"""Print all CPU records of the ledger as one Markdown table: `.venv/bin/python benchmarks/table.py`.

One row per record, shape and runner. Ratios are the runner's speed over the engine's in the same run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import LEDGER

from dinodeploy.bench.table import share

HEADS = "model | recipe | cpu | shape | runner | ms | p95 | ratio | of fp32 peak | error | 1 - cosine"


def rows(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of one record."""
    cpu = f"{record['cpu'].partition(' ')[2]}, {record['threads']} threads"
    for row in record["rows"]:
        facts = record["runners"][row["runner"]]
        yield (
            record["arch"],
            record["recipe"],
            cpu,
            f"{row['batch']}x{row['height']}x{row['width']}",
            facts["runtime"] + (" (ours)" if row["runner"] == "engine" else ""),
            f"{row['median_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['ratio']:.2f}",
            share(row),
            f"{facts['relative_frobenius_cls']:.0e}",
            f"{1 - facts['smallest_cosine_cls']:.0e}",
        )


def main(folder: Path = LEDGER) -> None:
    print(f"| {HEADS} |")
    print(f"|{'---|' * len(HEADS.split('|'))}")
    for path in sorted(folder.glob("cpu_*.json")):
        for row in rows(json.loads(path.read_text())):
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
