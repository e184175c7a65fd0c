"""Export the metrics of tenants. The label `tenant` is an existing tenant or `other`: bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.tenants.registry import TenantRegistry


class TenantMetrics(Collector):
    """One scrape's view of the tenants; `snapshots` is set before each."""

    def __init__(self, registry: TenantRegistry) -> None:
        self.snapshots: list[QueueSnapshot] = []
        self._registry = registry
        self._jobs: Counter[tuple[str, str]] = Counter()

    def count(self, tenant: str, outcome: str) -> None:
        """Count a job of a tenant that this replica `accepted` or `refused`."""
        self._jobs[self._registry.label(tenant), outcome] += 1

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry calls this before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return every family."""
        known = self._registry
        for name, what, value in (
            ("tenants", "Tenants in force", len(known)),
            ("open_mode", "1: no API key is needed, and every caller is an admin", known.is_open),
            (
                "tenants_file_ok",
                "0: the tenants file is invalid, and an older one is in force",
                known.healthy,
            ),
            (
                "tenants_loaded_timestamp_seconds",
                "When the tenants in force were read, s since the epoch",
                known.loaded_s,
            ),
        ):
            yield GaugeMetricFamily(f"lengthwise_{name}", what, value=float(value))
        jobs = CounterMetricFamily(
            "lengthwise_tenant_jobs", "Jobs submitted to this replica", labels=["tenant", "outcome"]
        )
        for (tenant, outcome), count in self._jobs.items():
            jobs.add_metric([tenant, outcome], count)
        yield jobs
        yield from self.backlogs()

    def backlogs(self) -> Iterator[Metric]:
        """Return the families that come from Redis: every replica exports the same values."""
        depths: Counter[tuple[str, str]] = Counter()
        dead: Counter[tuple[str, str]] = Counter()
        for snapshot in self.snapshots:
            for backlog in snapshot.stats.tenants:
                labels = snapshot.queue.name, self._registry.label(backlog.tenant)
                depths[labels] += backlog.depth
                dead[labels] += backlog.dead
        for name, what, values in (
            ("tenant_queue_depth", "Jobs waiting", depths),
            ("tenant_queue_dead", "Jobs that failed for good and were not redriven", dead),
        ):
            family = GaugeMetricFamily(f"lengthwise_{name}", what, labels=["service", "tenant"])
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
