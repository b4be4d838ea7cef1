"""Prometheus metrics of a service; with several workers, their sums.

Workers write into the directory that PROMETHEUS_MULTIPROC_DIR names (`workers.py` sets it); the worker that
answers /metrics adds up the files of all of them.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from dinodeploy.serve.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHARED = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dinodeploy_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "dinodeploy_request_seconds",
            "From the first byte of the request to the end of the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch = Histogram(
            "dinodeploy_batch_size", "Images per batch.", buckets=_SIZES, registry=registry
        )
        self.engine = Histogram(
            "dinodeploy_engine_seconds", "One engine run.", buckets=_SECONDS, registry=registry
        )
        self.queue = Gauge(
            "dinodeploy_queue", "Images waiting or running.", registry=registry, multiprocess_mode="livesum"
        )
        self._service = service
        service.observe = self._ran

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        self.queue.set(self._service.pending)
        registry = self._registry
        if os.environ.get(SHARED):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)

    def _ran(self, size: int, seconds: float) -> None:
        self.batch.observe(size)
        self.engine.observe(seconds)
        self.queue.set(self._service.pending)
