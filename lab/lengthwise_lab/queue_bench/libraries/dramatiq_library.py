"""dramatiq, https://dramatiq.io."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_in_threads

#: 1.5 times as fast as its default, twice the threads, at 32 threads.
_PREFETCH = 100

SEMANTICS = Semantics(
    settings="threads; prefetch 100, or twice the threads (its default) if that is more",
    acknowledged="after the job",
    after_a_kill="runs again at the next maintenance after 60 s without a heartbeat of its process",
    retries="20, exponential backoff with jitter",
    deduplication="none",
    result="off (its default)",
    order="first in, first out, up to what is prefetched",
)


def _actor(url: str, job: Callable[[float], None]) -> tuple[RedisBroker, dramatiq.Actor]:
    broker = RedisBroker(url=url)
    dramatiq.set_broker(broker)

    def noop(sent_s: float, payload: str) -> None:
        del payload
        job(sent_s)

    return broker, dramatiq.actor(noop, broker=broker)


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through its actor."""
    broker, actor = _actor(url, lambda _: None)
    try:
        return produce_in_threads(plan, actor.send)
    finally:
        broker.close()


def work(url: str, probe: Probe) -> None:
    """Run a worker process, like one of those that its command line starts."""
    broker, _ = _actor(url, probe.job)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    worker = dramatiq.Worker(broker, worker_threads=probe.concurrency)
    worker.queue_prefetch = max(
        _PREFETCH, 2 * probe.concurrency
    )  # its environment variable, dramatiq_queue_prefetch
    worker.start()
    ended.wait()
    worker.stop()
    broker.close()
