"""Benchmarks: an engine beside its peers on the same weights and photographs, in one run, in turns.

runners.py    what is timed: the engine, the bundle on another runtime, a peer in torch
timing.py     runs in turns, medians, ratios within a round
limits.py     this machine's own GEMM peak, and the work of a model
probe.py      start and memory, each in a process of its own
record.py     one benchmark from beginning to end, as JSON
table.py      a record for people
"""

from __future__ import annotations

from dinodeploy.bench.record import BenchOptions, run_bench
from dinodeploy.bench.table import as_table, summary

__all__ = ["BenchOptions", "run_bench", "as_table", "summary"]
