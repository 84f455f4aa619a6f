"""Metrics for Prometheus. Labels are route templates, methods, statuses and names of pools: nothing of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slicewise import __version__
from slicewise.service.limits import Lane
from slicewise.service.pool import Pool

__all__ = ["MEDIA_TYPE", "Metrics"]

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text that Prometheus reads."""

_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """What one service counts.

    Args:
        pools: Whose workers and queues are shown.
        lanes: Requests in the house, by name.
        unfinished: How many studies wait or run.
        model_id: Of the model.
    """

    def __init__(self, pools: Iterable[Pool], lanes: dict[str, Lane], unfinished: Callable[[], int], model_id: str) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "slicewise_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._durations = Histogram(
            "slicewise_request_seconds", "From a request's head to its answer's end.", ["route"], buckets=_BUCKETS,
            registry=self._registry,
        )  # fmt: skip
        self._registry.register(_House(tuple(pools), lanes, unfinished, model_id))
        ProcessCollector(registry=self._registry)

    def count(self, method: str, route: str, status: int, duration_s: float) -> None:
        """One request was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._durations.labels(route).observe(duration_s)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _House(Collector):
    """What is looked up when it is asked for."""

    def __init__(
        self, pools: tuple[Pool, ...], lanes: dict[str, Lane], unfinished: Callable[[], int], model_id: str
    ) -> None:
        self._pools, self._lanes, self._unfinished, self._model_id = pools, lanes, unfinished, model_id

    def collect(self) -> Iterable[Metric]:
        """The state of pools, lanes and studies."""
        ready = GaugeMetricFamily("slicewise_workers_ready", "Workers that are ready.", labels=["pool"])
        waiting = GaugeMetricFamily("slicewise_tasks_waiting", "Tasks that no worker has yet.", labels=["pool"])
        running = GaugeMetricFamily("slicewise_tasks_running", "Tasks that a worker has.", labels=["pool"])
        restarts = CounterMetricFamily("slicewise_worker_restarts", "Workers that ended.", labels=["pool"])
        for pool in self._pools:
            for family, value in (
                (ready, pool.ready), (waiting, pool.waiting), (running, pool.running), (restarts, pool.restarts)
            ):  # fmt: skip
                family.add_metric([pool.name], value)
        house = GaugeMetricFamily("slicewise_in_house", "Requests being uploaded, waiting or predicted.", labels=["lane"])
        limit = GaugeMetricFamily("slicewise_in_house_limit", "How many there may be.", labels=["lane"])
        for name, lane in self._lanes.items():
            house.add_metric([name], lane.count)
            limit.add_metric([name], lane.limit)
        studies = GaugeMetricFamily("slicewise_studies_unfinished", "Studies that wait or run.", value=self._unfinished())
        info = GaugeMetricFamily("slicewise_model_info", "Always 1.", labels=["model_id", "version"])
        info.add_metric([self._model_id, __version__], 1)
        return [ready, waiting, running, restarts, house, limit, studies, info]
