"""The metrics of tenants. The label `tenant` is one that there is now, else `other`: bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.tenants.registry import TenantRegistry


class Tenants(Collector):
    """One scrape's view of the tenants; `snapshots` is set before each."""

    def __init__(self, registry: TenantRegistry) -> None:
        self.snapshots: list[QueueSnapshot] = []
        self._registry = registry
        self._jobs: Counter[tuple[str, str]] = Counter()

    def count(self, tenant: str, outcome: str) -> None:
        """A job of a tenant was `accepted` or `refused` here."""
        self._jobs[self._registry.label(tenant), outcome] += 1

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: a collector may be asked before there is a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        known = self._registry
        for name, what, value in (
            ("tenants", "Tenants in force", len(known)),
            ("open_mode", "1: no API key is needed, and everybody is an admin", known.is_open),
            (
                "tenants_file_ok",
                "0: the tenants file cannot be taken as it is, and an older one is in force",
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
            "lengthwise_tenant_jobs", "Jobs handed in here", labels=["tenant", "outcome"]
        )
        for (tenant, outcome), count in self._jobs.items():
            jobs.add_metric([tenant, outcome], count)
        yield jobs
        yield from self._lines()

    def _lines(self) -> Iterator[Metric]:
        depths: Counter[tuple[str, str]] = Counter()
        dead: Counter[tuple[str, str]] = Counter()
        for snapshot in self.snapshots:
            for line in snapshot.stats.tenants:
                labels = snapshot.queue.name, self._registry.label(line.tenant)
                depths[labels] += line.depth
                dead[labels] += line.dead
        for name, what, values in (
            ("tenant_queue_depth", "Jobs waiting", depths),
            ("tenant_queue_dead", "Jobs that failed for good and were not redriven", dead),
        ):
            family = GaugeMetricFamily(f"lengthwise_{name}", what, labels=["service", "tenant"])
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
