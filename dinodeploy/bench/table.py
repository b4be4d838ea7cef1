"""A benchmark record as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinodeploy.bench.runners import ENGINE

if TYPE_CHECKING:
    from rich.table import Table

LEGEND = """\
ratio: the runner's speed over the engine's, median over rounds. peak: share of this machine's peak of
fp32 products. error: of CLS against the fp32 reference. start: seconds from process start to the first
output. MiB: peak memory until then."""


def as_table(record: Mapping[str, Any]) -> Table:
    """One row per shape and runner, the engine first."""
    from rich.table import Table  # GPU scripts run where it is not installed

    table = Table(box=None, pad_edge=False)
    for head in ("shape", "runner"):
        table.add_column(head, no_wrap=True)
    for head in ("ms", "p95", "images/s", "ratio", "peak", "error", "start", "MiB"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in record["rows"]:
        facts = record["runners"][row["runner"]]
        memory = facts["peak_mib"]
        table.add_row(
            f"{row['batch']}x{row['height']}x{row['width']}",
            row["runner"],
            f"{row['median_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['images_per_second']:.1f}",
            f"{row['ratio']:.2f}",
            share(row),
            f"{facts['relative_frobenius_cls']:.0e}",
            f"{facts['seconds']:.2f}",
            "" if memory is None else f"{memory:.0f}",
        )
    return table


def share(row: Mapping[str, Any]) -> str:
    """A row's share of the machine's fp32 peak in per cent; empty where the operations are unknown."""
    return "" if row["share_of_fp32_peak"] is None else f"{row['share_of_fp32_peak']:.0%}"


def summary(record: Mapping[str, Any]) -> str:
    """Model, runtime, CPU and peak in one line."""
    engine = record["runners"][ENGINE]
    return (
        f"{record['arch']}, {record['recipe']}, {engine['runtime']}, {record['cpu']}, "
        f"{record['threads']} thread{'s' if record['threads'] != 1 else ''}; fp32 products reach "
        f"{record['fp32_gemm_gflop_per_second']:.0f} GFLOP/s"
    )
