"""RQ, https://python-rq.org."""

from __future__ import annotations

import logging

from redis import Redis
from rq import Queue, SimpleWorker

from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_in_threads

SEMANTICS = Semantics(
    settings="SimpleWorker (no fork for each job), one job at a time, results not kept",
    acknowledged="after the job",
    after_a_kill="failed when its heartbeat ends; runs again only with Retry",
    retries="off by default",
    deduplication="job id",
    result="off here (result_ttl 0)",
    order="first in, first out",
)

_probe: Probe | None = None


def noop(sent_s: float, payload: str) -> None:
    """Run the job. RQ finds it by its import path, so it cannot be a closure."""
    del payload
    if _probe is not None:
        _probe.job(sent_s)


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through its queue."""
    with Redis.from_url(url) as client:
        queue = Queue(connection=client)
        return produce_in_threads(
            plan, lambda sent_s, p: queue.enqueue(noop, sent_s, p, result_ttl=0)
        )


def work(url: str, probe: Probe) -> None:
    """Run a worker process."""
    global _probe
    _probe = probe
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    with Redis.from_url(url) as client:
        SimpleWorker([Queue(connection=client)], connection=client).work(logging_level="WARNING")
