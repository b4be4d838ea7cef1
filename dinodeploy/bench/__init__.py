"""Benchmarks: an engine and its peers on the same weights and images, in one run, in turns.

runners.py    what is timed: the engine, the bundle on another runtime, a peer in torch
limits.py     the machine's peak of fp32 matrix products, and the operations of a model
probe.py      start-up time and memory, each in its own process
record.py     one complete benchmark, as JSON: runs in turns, medians, ratios within a round
ledger.py     records as files
table.py      a record as a table
"""

from __future__ import annotations

from dinodeploy.bench.record import BenchOptions, run_bench
from dinodeploy.bench.table import as_table, summary

__all__ = ["BenchOptions", "run_bench", "as_table", "summary"]
