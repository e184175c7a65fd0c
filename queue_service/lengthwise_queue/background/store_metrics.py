"""Export the metrics of the queues, read from the store at each scrape.

Every replica of the queue service exports the same values: a query uses `max by (service)`, never a
sum. The counters are in Redis, so a restart of a replica does not reset them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from lengthwise_queue.prediction import judge, quality
from lengthwise_queue.prediction.accuracy import coverage, tau_b
from lengthwise_queue.prediction.candidates import CANDIDATES
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_store.queues import Mode

#: The events of a job. Each has a series from the first scrape on, so that an alert sees the first
#: event of a kind as an increase.
_EVENTS = (
    *("accepted", "succeeded", "failed", "cancelled", "expired"),
    *("retried", "released", "redriven", "repriced", "quarantined"),
)

#: The gauges of a queue: name and help; `_values` has their values.
_GAUGES = {
    "queue_depth": "Jobs waiting",
    "queue_scheduled": "Jobs that wait for a delay or a retry",
    "queue_dead": "Jobs that failed for good and were not redriven",
    "queue_backlog_tokens": "Predicted tokens of the jobs waiting",
    "queue_backlog_seconds": "Time to serve the jobs waiting; no sample without a worker",
    "queue_oldest_wait_seconds": "Age of the oldest job waiting",
    "inflight": "Jobs leased to a worker",
    "queue_workers": "Workers with a recent heartbeat, whose engine gets work",
    "queue_slots": "Jobs that these workers can run at once",
    "queue_seconds_per_token": "What one output token costs, as measured, or as assumed before "
    "that",
    "queue_overtake_factor": "k in force: no job is overtaken by one accepted later than k times "
    "its own predicted time",
    "predictor_rank_accuracy": "Share of pairs of the last answers predicted in the right order; "
    "0.5: a coin",
    "predictor_tau_b": "Kendall's rank correlation of predicted and real lengths of the last "
    "answers",
    "predictor_coverage": "Share of the last answers within their calibrated p10 to p90; 0.8 is "
    "right",
    "predictor_raw_coverage": "The same before calibration, as the predictor returned the "
    "quantiles",
    "predictor_calibration_factor": "Calibrated over predicted median length, on average over the "
    "last answers",
    "predictor_calibration_samples": "Answers that the calibration rests on",
    "predictor_fallback_active": "1: served first come, first served, because the predictions are "
    "degraded",
}

_POLICIES = ("sjf", "fcfs", "shadow")


class QueueMetrics(Collector):
    """One scrape's view of every queue; `snapshots` is set before each."""

    def __init__(self, length_buckets: Sequence[str]) -> None:
        self.snapshots: list[QueueSnapshot] = []
        #: Of each queue with waiting jobs, how many of a sample are in each group of lengths.
        self.waiting: Mapping[str, Counter[str]] = {}
        self._length_buckets = length_buckets

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry must not read the store when it is built."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return every family, with a sample for each queue."""
        yield from _gauges(self.snapshots)
        yield from _counters(self.snapshots)
        yield from _modes(self.snapshots)
        yield from _learning(self.snapshots)
        yield self._by_length()

    def _by_length(self) -> Metric:
        family = GaugeMetricFamily(
            "lengthwise_queue_depth_by_length",
            "Jobs waiting, by predicted length; from a sample where more than 1,000 wait",
            labels=["service", "length_bucket"],
        )
        for snapshot in self.snapshots:
            counts = self.waiting.get(snapshot.queue.name, Counter())
            scale = snapshot.stats.depth / counts.total() if counts else 0.0
            for bucket in self._length_buckets:
                family.add_metric([snapshot.queue.name, bucket], counts[bucket] * scale)
        return family


def _gauges(snapshots: list[QueueSnapshot]) -> Iterator[Metric]:
    families = {
        name: GaugeMetricFamily(f"lengthwise_{name}", what, labels=["service"])
        for name, what in _GAUGES.items()
    }
    for snapshot in snapshots:
        for name, value in _values(snapshot).items():
            if value is not None:
                families[name].add_metric([snapshot.queue.name], value)
    yield from families.values()


def _values(snapshot: QueueSnapshot) -> dict[str, float | None]:
    """Return the value of each of `_GAUGES`; None: no sample."""
    stats, settings = snapshot.stats, snapshot.settings
    oldest_ms = stats.oldest_accepted_ms
    waited_ms = 0.0 if oldest_ms is None else max(stats.now_ms - oldest_ms, 0.0)
    backlog_ms = pricing.drain_ms(settings, stats, stats.backlog_tokens)
    recent = quality.recent(stats, settings)
    return {
        "queue_depth": stats.depth,
        "queue_scheduled": stats.scheduled,
        "queue_dead": stats.dead,
        "queue_backlog_tokens": stats.backlog_tokens,
        "queue_backlog_seconds": None if backlog_ms is None else backlog_ms / 1000,
        "queue_oldest_wait_seconds": waited_ms / 1000,
        "inflight": stats.in_flight,
        "queue_workers": sum(worker.slots > 0 for worker in stats.workers),
        "queue_slots": sum(worker.slots for worker in stats.workers),
        "queue_seconds_per_token": pricing.ms_per_token(settings, stats) / 1000,
        "queue_overtake_factor": settings.overtake_factor if stats.active_policy == "sjf" else 0.0,
        "predictor_rank_accuracy": quality.rank_accuracy(recent),
        "predictor_tau_b": tau_b(quality.expectations(recent)),
        "predictor_coverage": coverage(
            (a.calibrated, a) for a in recent if a.calibrated is not None
        ),
        "predictor_raw_coverage": coverage((a.raw, a) for a in recent if a.raw is not None),
        "predictor_calibration_factor": snapshot.newest_calibration.factor,
        "predictor_calibration_samples": snapshot.newest_calibration.samples,
        "predictor_fallback_active": float(stats.fallback),
    }


def _counters(snapshots: list[QueueSnapshot]) -> Iterator[Metric]:
    jobs = CounterMetricFamily("lengthwise_jobs", "Events of the jobs", labels=["service", "event"])
    expired = CounterMetricFamily(
        "lengthwise_leases_expired", "Jobs whose worker sent no heartbeat", labels=["service"]
    )
    overtakes = CounterMetricFamily(
        "lengthwise_overtakes",
        "Jobs that were accepted earlier and still waited, summed over claims",
        labels=["service"],
    )
    waits = SummaryMetricFamily(
        "lengthwise_job_wait_seconds",
        "From acceptance to the first start, of every job",
        labels=["service"],
    )
    fcfs = SummaryMetricFamily(
        "lengthwise_fcfs_counterfactual_wait_seconds",
        "How long the same jobs would have waited first come, first served",
        labels=["service"],
    )
    for snapshot in snapshots:
        name, stats = snapshot.queue.name, snapshot.stats
        count = stats.counters
        for event in _EVENTS:
            jobs.add_metric([name, event], count.get(event, 0))
        expired.add_metric([name], count.get("leases_expired", 0))
        overtakes.add_metric([name], count.get("overtakes", 0))
        for family, counter, mean_ms in (
            (waits, "waits", stats.mean_wait_ms),
            (fcfs, "fcfs_waits", stats.mean_fcfs_wait_ms),
        ):
            n = count.get(counter, 0)
            family.add_metric([name], count_value=n, sum_value=n * (mean_ms or 0.0) / 1000)
    yield from (jobs, expired, overtakes, waits, fcfs)


def _modes(snapshots: list[QueueSnapshot]) -> Iterator[Metric]:
    mode = GaugeMetricFamily(
        "lengthwise_queue_mode", "1: the queue is in this mode", labels=["service", "mode"]
    )
    policy = GaugeMetricFamily(
        "lengthwise_queue_policy", "1: this policy is in force", labels=["service", "policy"]
    )
    for snapshot in snapshots:
        name, stats = snapshot.queue.name, snapshot.stats
        for m in Mode:
            mode.add_metric([name, m.value], float(m is stats.mode))
        for p in _POLICIES:
            policy.add_metric([name, p], float(p == stats.active_policy))
    yield from (mode, policy)


def _learning(snapshots: list[QueueSnapshot]) -> Iterator[Metric]:
    """Return what the queues learned; a queue that does not learn has no samples."""
    labels, by = ["service"], ["service", "candidate"]
    jobs = CounterMetricFamily(
        "lengthwise_learning_jobs", "Finished jobs that lengths were learned from", labels=labels
    )
    fits = CounterMetricFamily(
        "lengthwise_learning_fits", "How often lengths were learned", labels=labels
    )
    fitted = GaugeMetricFamily(
        "lengthwise_learning_fitted_jobs", "Jobs that the last fit rests on", labels=labels
    )
    took = GaugeMetricFamily(
        "lengthwise_learning_last_fit_seconds", "Duration of the last fit", labels=labels
    )
    serving = GaugeMetricFamily(
        "lengthwise_learning_serving", "1: the predictions of this candidate are served", labels=by
    )
    taus = GaugeMetricFamily(
        "lengthwise_learning_tau_b",
        "Kendall's rank correlation of predicted and real lengths of the last answers for which "
        "something was learned",
        labels=by,
    )
    pairs = GaugeMetricFamily(
        "lengthwise_learning_pair_accuracy",
        "Share of pairs of these answers that were predicted in the right order; the candidates "
        "are judged by it",
        labels=by,
    )
    for snapshot in snapshots:
        if snapshot.settings.learning == "off":
            continue
        name, stats = snapshot.queue.name, snapshot.stats
        jobs.add_metric([name], stats.counters.get("evidence", 0))
        fits.add_metric([name], stats.counters.get("fits", 0))
        if stats.fit is not None:
            fitted.add_metric([name], stats.fit.samples)
            took.add_metric([name], stats.fit.took_ms / 1000)
        scores = judge.scores(quality.recent(stats, snapshot.settings))
        for candidate in CANDIDATES:
            serving.add_metric([name, candidate], float(candidate == snapshot.serving))
        for family, values in ((taus, scores.taus), (pairs, scores.accuracies)):
            for candidate, value in values.items():
                if value is not None:
                    family.add_metric([name, candidate], value)
        if scores.tau_served is not None:
            taus.add_metric([name, "served"], scores.tau_served)
    yield from (jobs, fits, fitted, took, serving, taus, pairs)
