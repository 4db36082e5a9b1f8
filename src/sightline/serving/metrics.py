"""Figures for Prometheus. A registry of its own, so that two servers in a process don't share theirs."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sightline.serving.service import Service, State

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """What the gate counts, and what is asked of the service when somebody looks."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("sightline_requests", "Requests by path and status.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "sightline_request_seconds", "From a request's first byte to its answer's last.", ["path"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.texts = Counter("sightline_texts", "Texts that were answered.", registry=self.registry)
        self.tokens = Counter("sightline_tokens", "Tokens that the model read for them.", registry=self.registry)
        self.truncated = Counter("sightline_truncated_texts", "Texts that the model didn't read whole.", registry=self.registry)
        self.running = Gauge("sightline_requests_running", "Requests that aren't answered yet.", registry=self.registry)
        self.registry.register(_Live(service))


class _Live(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names don't clash, and asking the engine for them at start would be too early."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Queue, engine, and how full its batches are: tokens / batches / budget."""
        service = self._service
        yield GaugeMetricFamily("sightline_ready", "1 if requests are answered.", service.state is State.READY)
        yield GaugeMetricFamily("sightline_queue_texts", "Texts that aren't answered yet.", service.admission.texts)
        yield GaugeMetricFamily("sightline_queue_bytes", "Bytes of the bodies that are held.", service.admission.bytes)
        yield GaugeMetricFamily("sightline_queue_texts_max", "Texts that may wait.", service.admission.limits.queue_texts)
        if service.state is not State.READY:
            return
        stats = service.embedder.stats()
        yield CounterMetricFamily("sightline_engine_batches", "Passes of the model.", stats.batches)
        yield CounterMetricFamily("sightline_engine_batch_tokens", "Tokens in them.", stats.tokens)
        budget = service.describe()["max_batch_tokens"]
        if budget is not None:
            yield GaugeMetricFamily("sightline_engine_batch_tokens_max", "Tokens that one pass may have.", budget)
